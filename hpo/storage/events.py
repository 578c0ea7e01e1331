"""Kinds of events in `hpo_events`: what happened to a study and must not be forgotten."""

from enum import StrEnum


class EventKind(StrEnum):
    """A kind of event, as it is stored."""

    ACCEPTED = "accepted"  # a part of the study that changed, knowingly
    BASELINE = "baseline"  # scored, or why it has no score
    BUDGET = "budget"  # raised or lowered
    DEATH = "death"  # of a worker that held a trial
    JOBS_GONE = "jobs gone"  # a scheduler does not know them any more
    LIMIT = "limit"  # a trial exceeded one
    MODEL_SAVED = "model saved"
    NESTED = "nested cross-validation"
    OUTAGE = "outage"  # somebody could not write in time: nobody's lease is judged for a while
    PREPARED = "prepared"  # what must be there before any part can be scored
    RETRY = "retry"  # of a trial that its objective refused
    REPORTING = "reporting"  # a page, by the last launcher of a cluster
    RESUMED = "resumed"
    STOP = "stop"  # stopped, or allowed to go on
    SUBMITTING = "submitting"  # workers, to a cluster: whether it took them is told later
    SUBMITTED = "submitted"  # workers, to a cluster
    TEST_EVALUATION = "test set looked at"  # the name that older studies have stored
    WANDB = "wandb"  # a session of Weights & Biases
