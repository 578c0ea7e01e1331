"""The chemical elements, as the families share them."""

from __future__ import annotations

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb "
    "Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm "
    "Bk Cf Es Fm Md No Lr"
)

_HEAVIER_SYMBOLS = "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"

# Hydrogen to lawrencium by atomic number: the 103 elements that SMACT knows; and those beyond.
ELEMENTS = tuple(_SYMBOLS.split())
HEAVIER = tuple(_HEAVIER_SYMBOLS.split())

# Ionic radii for six-fold coordination (N: four-fold) of the elements that count as anions wherever
# they occur: nitrogen, the chalcogens, the halogens. Phosphides and hydrides are not told from
# phosphates and hydroxides, so P and H are out. Shannon, Acta Cryst. A 32, 751 (1976).
ANION_RADII_ANGSTROM = {
    "N": 1.46,
    "O": 1.40,
    "F": 1.33,
    "S": 1.84,
    "Cl": 1.81,
    "Se": 1.98,
    "Br": 1.96,
    "Te": 2.21,
    "I": 2.20,
}
LI_RADIUS_ANGSTROM = 0.76

ANIONS = frozenset(ANION_RADII_ANGSTROM)

# Isotopes have their element's chemistry.
ISOTOPES = {"D": "H", "T": "H"}
