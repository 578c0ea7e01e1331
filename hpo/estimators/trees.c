/* Regression trees of gradient boosting, grown on rows that were binned and sorted before.

The trees are those of scikit-learn's TreeGrower, bit for bit. That one adds up gradients in every
bin of every node. Here every node keeps, for each column, the rows outside of the lowest bin, from
the highest bin down, and what it does not keep is what remains of the sum of all: most descriptors
are zero for most materials. That adds the same numbers in another order, which changes nothing as
long as no sum is rounded, and `is_exact` decides that for every tree beforehand: gradients are of
single precision, sums of double.

Must be compiled without contraction of a*b + c, which would round otherwise.
*/

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    double gradient, hessian;
} Sums;

typedef struct {
    double gain;
    Sums left;
    int32_t place, feature, bin, missing_left;
} Split;

typedef struct {
    double value;
    Sums sums;
    Split split;
    int32_t start, stop;        /* its rows in `order` */
    int32_t depth, left;        /* the place of its left child, before the right one; 0: a leaf */
    int32_t columns, n_columns; /* those that vary */
} Node;

/* The rows of a node outside of the lowest bin of a column: highest bin first, and before it what
   has no value. */
typedef struct {
    int32_t start; /* the place of the first in `listed` */
    uint16_t n, feature;
} Column;

typedef struct {
    /* The rows, as long as they stay the same. */
    int32_t n_rows, n_features, n_others, missing_bin;
    const uint8_t *bins;        /* n_features columns of n_rows */
    const uint8_t *others;      /* n_others rows of n_features */
    const uint16_t *listed;     /* the rows that the root keeps of each column in turn */
    const int32_t *n_listed;    /* n_features */
    const uint8_t *has_missing; /* n_features */
    /* The settings of a fit. */
    int32_t max_leaves, max_depth, min_samples_leaf, is_weighted; /* no limit: the largest */
    double l2, shrinkage;
    /* The targets of a tree. */
    const float *gradients, *hessians; /* n_rows; hessians are one number if not is_weighted */
    const uint8_t *draws; /* for every look for a split: which of n_features it is at; or none */
    void *workspace;      /* of `workspace_size` bytes */
    /* The tree. */
    int32_t n_leaves, n_draws;       /* how many draws were used */
    uint16_t *order;                 /* n_rows: rows, leaf by leaf */
    int32_t *leaf_start, *leaf_stop; /* n_rows: places in `order` */
    double *leaf_value;              /* n_rows */
} Task;

typedef struct {
    const Task *task;
    Node *nodes;
    int32_t *heap; /* nodes that can be split, as heapq keeps them */
    int32_t *leaf_node;
    double *per_hessian;
    double *gradients;
    uint16_t *listed, *aside;
    Column *columns;
    uint8_t *goes_left;
    int32_t n_nodes, n_heap, n_leaves, n_columns, n_draws;
} Tree;

static const double MIN_HESSIAN = 1e-3, TINY = 1e-15;

/* Workspace -------------------------------------------------------------------------------- */

static int64_t most_leaves(const Task *task)
{
    int64_t by_rows = task->n_rows / task->min_samples_leaf;
    int64_t most = by_rows < task->max_leaves ? by_rows : task->max_leaves;
    return most < 1 ? 1 : most;
}

static void *take(char *workspace, int64_t *used, int64_t n_bytes)
{
    int64_t start = *used;
    *used += (n_bytes + 63) / 64 * 64;
    return workspace ? workspace + start : workspace;
}

/* Find the places of a tree in a workspace; returns how large that is, also if there is none. */
static int64_t lay_out(const Task *task, Tree *tree, char *workspace)
{
    int64_t n_rows = task->n_rows, n_features = task->n_features;
    int64_t n_leaves = most_leaves(task), n_nodes = 2 * n_leaves - 1, n_listed = 0, used = 0;
    for (int32_t feature = 0; feature < n_features; feature++)
        n_listed += task->n_listed[feature];
    tree->task = task;
    tree->nodes = take(workspace, &used, n_nodes * sizeof(Node));
    tree->heap = take(workspace, &used, n_leaves * sizeof(int32_t));
    tree->leaf_node = take(workspace, &used, n_leaves * sizeof(int32_t));
    tree->per_hessian = take(workspace, &used, (n_rows + 1) * sizeof(double));
    tree->gradients = take(workspace, &used, n_rows * sizeof(double));
    tree->listed = take(workspace, &used, n_listed * sizeof(uint16_t));
    tree->aside = take(workspace, &used, n_rows * sizeof(uint16_t));
    tree->columns = take(workspace, &used, n_nodes * n_features * sizeof(Column));
    tree->goes_left = take(workspace, &used, n_rows);
    tree->n_nodes = tree->n_heap = tree->n_leaves = tree->n_columns = tree->n_draws = 0;
    return used;
}

int64_t workspace_size(const Task *task)
{
    Tree tree;
    return lay_out(task, &tree, 0);
}

/* Exactness -------------------------------------------------------------------------------- */

/* Whether all sums and differences of sums of these numbers are free of rounding: they are
   multiples of the lowest bit that is set in any, and smaller than 2^53 of it. */
static int is_exact(const float *numbers, int32_t n)
{
    double total = 0.0;
    int lowest = 1024;
    for (int32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &numbers[i], sizeof bits);
        uint32_t exponent = bits >> 23 & 0xff, mantissa = bits & 0x7fffff;
        if (exponent == 0xff)
            return 0;
        if (exponent == 0 && mantissa == 0)
            continue;
        mantissa |= exponent ? 1u << 23 : 0;
        int lowest_here = (exponent ? (int)exponent : 1) - 150 + __builtin_ctz(mantissa);
        lowest = lowest_here < lowest ? lowest_here : lowest;
        total += fabs((double)numbers[i]);
    }
    return lowest == 1024 || total < ldexp(1.0, 52 + lowest);
}

/* Splits ----------------------------------------------------------------------------------- */

static double value_of(const Task *task, Sums sums)
{
    return -sums.gradient / (sums.hessian + task->l2 + TINY);
}

static Sums rest_of(Sums whole, Sums part)
{
    return (Sums){whole.gradient - part.gradient, whole.hessian - part.hessian};
}

static double gain_of(const Task *task, double loss, Sums left, Sums right)
{
    double gain = loss;
    gain -= left.gradient * value_of(task, left);
    gain -= right.gradient * value_of(task, right);
    return gain;
}

/* What a split has to bring, so that it is worth to be looked at closely. */
static double bar_of(double loss, double gain)
{
    return (gain - loss) * (1.0 - 1e-10);
}

static const uint8_t *bins_of(const Tree *tree, int32_t feature)
{
    return tree->task->bins + (int64_t)feature * tree->task->n_rows;
}

/* Take a split if it is allowed and better than the best so far. Of equal ones scikit-learn takes
   the first that it meets: column by column, from the lowest bin up with what has no value on the
   right, then down with that on the left. */
static void consider(
    const Tree *tree, const Node *node, int32_t feature, int32_t bin, int32_t missing_left,
    Sums left, Split *best)
{
    const Task *task = tree->task;
    Sums right = rest_of(node->sums, left);
    double gain = gain_of(task, node->value * node->sums.gradient, left, right);
    int32_t place = feature << 9 | (missing_left ? 511 - bin : bin);
    if (left.hessian < MIN_HESSIAN || right.hessian < MIN_HESSIAN)
        return;
    if (gain > best->gain || (gain == best->gain && place < best->place))
        *best = (Split){gain, left, place, feature, bin, missing_left};
}

/* Look at the splits of a column in which all rows of the node have a value and count alike. */
static void scan(const Tree *tree, const Node *node, Column column, Split *best)
{
    const uint8_t *bins = bins_of(tree, column.feature);
    const uint16_t *rows = tree->listed + column.start;
    const double *gradients = tree->gradients, *per_hessian = tree->per_hessian;
    int32_t n_node = node->stop - node->start, least = tree->task->min_samples_leaf;
    int32_t most = n_node - least < column.n ? n_node - least : column.n;
    double whole = node->sums.gradient, loss = node->value * whole, right = 0.0;
    double bar = bar_of(loss, best->gain);
    if (most < least)
        return;
    for (int32_t i = 0; i < least - 1; i++)
        right += gradients[rows[i]];
    for (int32_t n_right = least; n_right <= most; n_right++) {
        right += gradients[rows[n_right - 1]];
        double left = whole - right;
        double brings =
            right * right * per_hessian[n_right] + left * left * per_hessian[n_node - n_right];
        if (brings <= bar)
            continue;
        int32_t bin = n_right < column.n ? bins[rows[n_right]] : 0;
        if (bin == bins[rows[n_right - 1]])
            continue;
        consider(tree, node, column.feature, bin, 0, (Sums){left, n_node - n_right}, best);
        bar = bar_of(loss, best->gain);
    }
}

/* The same of any column: what has no value goes to either side, and rows may count differently. */
static void scan_any(const Tree *tree, const Node *node, Column column, Split *best)
{
    const Task *task = tree->task;
    const uint8_t *bins = bins_of(tree, column.feature);
    const uint16_t *rows = tree->listed + column.start;
    int32_t n_node = node->stop - node->start, least = task->min_samples_leaf, n_missing = 0;
    Sums missing = {0.0, 0.0}, right = {0.0, 0.0};
    for (int32_t i = 0; i < column.n; i++) {
        int32_t bin = bins[rows[i]], below = i + 1 < column.n ? bins[rows[i + 1]] : 0;
        int32_t is_lowest = i + 1 == column.n && column.n == n_node;
        Sums of_row = {
            tree->gradients[rows[i]],
            task->is_weighted ? (double)task->hessians[rows[i]] : 1.0};
        if (bin == task->missing_bin && task->has_missing[column.feature]) {
            missing.gradient += of_row.gradient;
            missing.hessian += of_row.hessian;
            n_missing++;
        } else {
            right.gradient += of_row.gradient;
            right.hessian += of_row.hessian;
        }
        if (bin == below)
            continue;
        Sums others = rest_of(node->sums, right);
        int32_t n_right = i + 1 - n_missing;
        /* All with a value below this bin, and those without on the right. */
        if (!is_lowest && i + 1 >= least && n_node - i - 1 >= least)
            consider(tree, node, column.feature, below, 0, rest_of(others, missing), best);
        /* The others, and those without on the left. */
        if (n_missing && n_right >= least && n_node - n_right >= least)
            consider(tree, node, column.feature, bin - 1, 1, others, best);
    }
}

static Split best_split(const Tree *tree, const Node *node, const uint8_t *drawn)
{
    const Task *task = tree->task;
    Split best = {0.0, {0.0, 0.0}, 0, -1, 0, 0};
    for (int32_t i = 0; i < node->n_columns; i++) {
        Column column = tree->columns[node->columns + i];
        if (drawn && !drawn[column.feature])
            continue;
        int32_t first_bin = bins_of(tree, column.feature)[tree->listed[column.start]];
        int32_t has_missing = task->has_missing[column.feature] && first_bin == task->missing_bin;
        if (has_missing || task->is_weighted)
            scan_any(tree, node, column, &best);
        else
            scan(tree, node, column, &best);
    }
    return best;
}

/* Leaves, and the nodes that are still to be split ----------------------------------------- */

static int goes_first(const Tree *tree, int32_t a, int32_t b)
{
    return tree->nodes[a].split.gain > tree->nodes[b].split.gain;
}

static void sift_down(Tree *tree, int32_t place)
{
    int32_t node = tree->heap[place];
    while (place > 0) {
        int32_t above = (place - 1) / 2;
        if (!goes_first(tree, node, tree->heap[above]))
            break;
        tree->heap[place] = tree->heap[above];
        place = above;
    }
    tree->heap[place] = node;
}

/* As heapq does it, so that nodes of equal gain come in the same order. */
static int32_t pop(Tree *tree)
{
    int32_t first = tree->heap[0], last = tree->heap[--tree->n_heap], place = 0, below;
    while ((below = 2 * place + 1) < tree->n_heap) {
        if (below + 1 < tree->n_heap &&
            !goes_first(tree, tree->heap[below], tree->heap[below + 1]))
            below++;
        tree->heap[place] = tree->heap[below];
        place = below;
    }
    tree->heap[place] = last;
    if (tree->n_heap)
        sift_down(tree, place);
    return first;
}

static void end_in_leaf(Tree *tree, int32_t node)
{
    tree->nodes[node].left = 0;
    tree->leaf_node[tree->n_leaves++] = node;
}

static void find_split(Tree *tree, int32_t number)
{
    Node *node = &tree->nodes[number];
    const uint8_t *drawn = tree->task->draws;
    if (drawn)
        drawn += (int64_t)tree->n_draws++ * tree->task->n_features;
    node->split = best_split(tree, node, drawn);
    if (node->split.feature < 0) {
        end_in_leaf(tree, number);
    } else {
        tree->heap[tree->n_heap++] = number;
        sift_down(tree, tree->n_heap - 1);
    }
}

/* Growing ---------------------------------------------------------------------------------- */

static void keep_if_it_varies(Tree *tree, Node *node, Column column)
{
    const uint8_t *bins = bins_of(tree, column.feature);
    const uint16_t *rows = tree->listed + column.start;
    int32_t n_node = node->stop - node->start;
    if (column.n && (column.n < n_node || bins[rows[0]] != bins[rows[column.n - 1]]))
        tree->columns[node->columns + node->n_columns++] = column;
}

/* Move the rows of a node that go left in front of the others, and keep the order among both. */
static int32_t divide(const Tree *tree, uint16_t *rows, int32_t n)
{
    const uint8_t *goes_left = tree->goes_left;
    uint16_t *aside = tree->aside;
    int32_t n_left = 0, n_right = 0;
    for (int32_t i = 0; i < n; i++) {
        uint16_t row = rows[i];
        int32_t is_left = goes_left[row];
        rows[n_left] = row;
        aside[n_right] = row;
        n_left += is_left;
        n_right += !is_left;
    }
    memcpy(rows + n_left, aside, n_right * sizeof(uint16_t));
    return n_left;
}

static void divide_columns(Tree *tree, const Node *node, Node *left, Node *right)
{
    left->columns = tree->n_columns;
    right->columns = tree->n_columns + node->n_columns;
    tree->n_columns += 2 * node->n_columns;
    for (int32_t i = 0; i < node->n_columns; i++) {
        Column column = tree->columns[node->columns + i];
        uint16_t n_left = (uint16_t)divide(tree, tree->listed + column.start, column.n);
        uint16_t n_right = (uint16_t)(column.n - n_left);
        keep_if_it_varies(tree, left, (Column){column.start, n_left, column.feature});
        keep_if_it_varies(tree, right, (Column){column.start + n_left, n_right, column.feature});
    }
}

static void split_next(Tree *tree)
{
    const Task *task = tree->task;
    Node *node = &tree->nodes[pop(tree)];
    Split *split = &node->split;
    const uint8_t *bins = bins_of(tree, split->feature);
    for (int32_t i = node->start; i < node->stop; i++) {
        int32_t bin = bins[task->order[i]];
        tree->goes_left[task->order[i]] =
            bin <= split->bin || (split->missing_left && bin == task->missing_bin);
    }
    int32_t middle =
        node->start + divide(tree, task->order + node->start, node->stop - node->start);
    if (!task->has_missing[split->feature])
        split->missing_left = middle - node->start > node->stop - middle;
    int32_t n_leaves = tree->n_leaves + tree->n_heap + 2;
    Sums right_sums = rest_of(node->sums, split->left);
    node->left = tree->n_nodes;
    tree->n_nodes += 2;
    Node *left = &tree->nodes[node->left], *right = left + 1;
    *left = (Node){.value = value_of(task, split->left), .sums = split->left,
                   .start = node->start, .stop = middle, .depth = node->depth + 1};
    *right = (Node){.value = value_of(task, right_sums), .sums = right_sums,
                    .start = middle, .stop = node->stop, .depth = node->depth + 1};
    int is_full = n_leaves == task->max_leaves;
    int is_deep = is_full || left->depth == task->max_depth;
    int left_ends = is_deep || middle - node->start < 2 * task->min_samples_leaf;
    int right_ends = is_deep || node->stop - middle < 2 * task->min_samples_leaf;
    if (!left_ends || !right_ends)
        divide_columns(tree, node, left, right);
    if (left_ends)
        end_in_leaf(tree, node->left);
    if (right_ends)
        end_in_leaf(tree, node->left + 1);
    if (!left_ends)
        find_split(tree, node->left);
    if (!right_ends)
        find_split(tree, node->left + 1);
    if (is_full)
        while (tree->n_heap)
            end_in_leaf(tree, tree->heap[--tree->n_heap]);
}

static void plant(Tree *tree)
{
    const Task *task = tree->task;
    Node *root = tree->nodes;
    *root = (Node){.stop = task->n_rows};
    tree->n_nodes = 1;
    for (int32_t row = 0; row < task->n_rows; row++) {
        task->order[row] = (uint16_t)row;
        tree->gradients[row] = task->gradients[row];
        root->sums.gradient += task->gradients[row];
        root->sums.hessian += task->hessians[task->is_weighted ? row : 0];
    }
    if (task->n_rows < 2 * task->min_samples_leaf || root->sums.hessian < MIN_HESSIAN) {
        end_in_leaf(tree, 0);
        return;
    }
    for (int32_t n = 0; n <= task->n_rows; n++)
        tree->per_hessian[n] = 1.0 / (n + task->l2 + TINY);
    Column column = {0, 0, 0};
    tree->n_columns = task->n_features;
    for (int32_t feature = 0; feature < task->n_features; feature++) {
        column.feature = (uint16_t)feature;
        column.n = (uint16_t)task->n_listed[feature];
        memcpy(
            tree->listed + column.start, task->listed + column.start, column.n * sizeof(uint16_t));
        keep_if_it_varies(tree, root, column);
        column.start += column.n;
    }
    find_split(tree, 0);
}

/* Grow a tree, and write its leaves. Returns 0, or 1 if some sums would be rounded. */
int32_t grow(Task *task)
{
    Tree tree;
    if (!is_exact(task->gradients, task->n_rows) ||
        !is_exact(task->hessians, task->is_weighted ? task->n_rows : 1))
        return 1;
    lay_out(task, &tree, task->workspace);
    plant(&tree);
    while (tree.n_heap)
        split_next(&tree);
    task->n_leaves = tree.n_leaves;
    task->n_draws = tree.n_draws;
    for (int32_t leaf = 0; leaf < tree.n_leaves; leaf++) {
        const Node *node = &tree.nodes[tree.leaf_node[leaf]];
        task->leaf_start[leaf] = node->start;
        task->leaf_stop[leaf] = node->stop;
        task->leaf_value[leaf] = node->value * task->shrinkage;
    }
    return 0;
}

/* Add what the leaves of the tree that was grown last are worth to what is predicted. */
void add_tree(const Task *task, double *of_rows, double *of_others)
{
    Tree tree;
    lay_out(task, &tree, task->workspace);
    for (int32_t leaf = 0; leaf < task->n_leaves; leaf++) {
        double value = task->leaf_value[leaf];
        tree.nodes[tree.leaf_node[leaf]].value = value;
        for (int32_t i = task->leaf_start[leaf]; i < task->leaf_stop[leaf]; i++)
            of_rows[task->order[i]] += value;
    }
    for (int32_t row = 0; row < task->n_others; row++) {
        const uint8_t *bins = task->others + (int64_t)row * task->n_features;
        const Node *node = tree.nodes;
        while (node->left) {
            int32_t bin = bins[node->split.feature];
            int is_left = bin == task->missing_bin ? node->split.missing_left
                                                   : bin <= node->split.bin;
            node = tree.nodes + node->left + !is_left;
        }
        of_others[row] += node->value;
    }
}

/* What this was compiled from: a structure must not be read by another version of itself. */
const char *source_hash(void)
{
    return SOURCE_HASH;
}
