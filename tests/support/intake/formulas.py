"""Formulas as people write them, and what reading each has to give."""

from __future__ import annotations

import re
from dataclasses import dataclass

from features.chemistry.formulas import parse_plain
from features.intake.formulas import read_formula


@dataclass(frozen=True)
class Case:
    """A formula's text, and the plain formula with the same atoms, or the reason for refusing it.

    `remark` is a pattern of what has to be said, "" where nothing may be.
    """

    text: str
    plain: str = ""
    remark: str = ""
    refused: str = ""


def _read(plain: str, *texts: str) -> list[Case]:
    return [Case(text, plain) for text in texts]


def _remarked(remark: str, plain: str, *texts: str) -> list[Case]:
    return [Case(text, plain, remark) for text in texts]


def _refused(reason: str, *texts: str) -> list[Case]:
    return [Case(text, refused=reason) for text in texts]


CASES = (
    *_read("Li2O", "Li2O", " Li2O ", "Li₂O", "Li2 O", "Li 2 O", "Li2 O1", '"Li2O"', "'Li2O'"),
    *_read("Li2O", "“Li2O”", '""Li2O""', "Li2O;", "Li2O.", "Ｌｉ２Ｏ", "Li<sub>2</sub>O", "Li_2O"),
    *_read("Li2O", "Li$_2$O", "Li_{2}O", r"$\mathrm{Li_2O}$", r"\ce{Li2O}", "Li\u00a02\u200bO"),
    *_read("(Li2S)0.5", '"(Li2S)0.5"', "[Li2S]0.5", "{Li2S}0.5"),
    *_read("Li7La3Zr2O12", "Li₇La₃Zr₂O₁₂", "Li 7 La 3 Zr 2 O 12", "Li7 La3 Zr2 O12"),
    *_read("Li1.3Al0.3Ti1.7(PO4)3", "Li1.3Al0.3Ti1.7(PO4)3", "Li₁.₃Al₀.₃Ti₁.₇(PO₄)₃"),
    *_read("La0.5Sr0.5MnO3", "La.5Sr.5MnO3", "La0.5Sr0.5MnO3"),
    *_read("LiMn1.5Ni0.5O4", "LiMn1.5Ni0.5O4"),
    *_read("Li6PS5.5Cl1.5", "Li6PS5.5Cl1.5"),
    *_read("LiMn1.5NiO4", "LiMn1.5NiO4"),
    *_read("Li2O0.001", "Li2O1e-3"),
    *_read("Li2O", "Li~2~O", "Li&#8322;O", "<b>Li</b><sub>2</sub>O"),
    # Adducts
    *_read("CuSO4(H2O)5", "CuSO4(H2O)5", "CuSO4·5H2O", "CuSO4⋅5H2O", "CuSO4•5H2O", "CuSO4*5H2O"),
    *_read(
        "CuSO4(H2O)5", "CuSO4 · 5 H2O", "CuSO4 5H2O", "CuSO4·(H2O)5", "CuSO4 x 5H2O", "CuSO4∙5H2O"
    ),
    *_read("CuSO4(H2O)5", "CuSO₄·5H₂O", "CuSO4・5H2O", "CuSO4 × 5H2O", "CuSO4 . 5H2O"),
    *_read("CuSO4(H2O)5", r"CuSO$_4 \cdot 5$H$_2$O", "CuSO4 5 H2O"),
    *_read("Na2CO3(H2O)10", "Na2CO3·10 H2O", "Na2CO3 10 H2O", "Na2CO3·10H2O"),
    *_read("CaSO4(H2O)0.5", "CaSO4·0.5H2O", "CaSO4·.5H2O"),
    *_read("LiClH2O", "LiCl·H2O", "LiCl·1H2O"),
    *_read("Al2Si2O7(H2O)2", "Al2O3·2SiO2·2H2O"),
    *_read("Mo6Cl12(H2O)8", "Mo6Cl12·8H2O"),
    *_remarked("adduct CuSO4·5H2O", "CuSO4(H2O)5", "CuSO4.5H2O", '"CuSO4.5H2O"'),
    *_remarked("adduct", "Na2CO3(H2O)10", "Na2CO3.10H2O"),
    *_remarked("adduct", "MgCl2(H2O)6", "MgCl2.6H2O", "MgCl₂.6H₂O"),
    *_remarked("adduct", "CaSO4(H2O)0.5", "CaSO4.0.5H2O"),
    *_remarked("adduct", "LiClH2O", "LiCl.H2O"),
    *_remarked("adduct", "MgCl2(CH3OH)2", "MgCl2.2(CH3OH)"),
    *_read("CaSO4(H2O)0.5", "CaSO4·½H2O"),
    *_remarked("fractions", "CaSO4(H2O)0.5", "CaSO4·1/2H2O", "CaSO4.1/2H2O"),
    *_read("LiFePO4(H2O)2.5", "LiFePO4·2½H2O"),
    *_remarked("adduct", "Na2S2O3(H2O)5", "Na2S2O3.5H2O"),
    *_remarked("adduct", "Al2Si2O7(H2O)2", "Al2O3.2SiO2.2H2O"),
    *_remarked("adduct", "Li2B4O7", "Li2O.2B2O3"),
    *_read("ZnCl2H2O", "ZnCl2.H2O"),
    *_remarked("decimal point", "Li1.3Al0.3Ti1.7(PO4)3", "Li1·3Al0·3Ti1·7(PO4)3"),
    *_remarked("decimal point", "Li6.5La3Zr1.5Ta0.5O12", "Li6·5La3Zr1·5Ta0·5O12"),
    *_refused(r"may be .*SrCoO4H4?.* or|may be .* or ", "SrCoO2.5H2O", "FeSO4.5H2O", "SrCoO2·5H2O"),
    *_refused("variable", "CuSO4·xH2O", "CuSO4.nH2O", "CuSO4·x H2O"),
    *_refused("may be .*O46.* or CuSO9H10", "CuSO45H2O"),
    # Oxidation numbers and charges
    *_remarked("oxidation number", "MnO2", "Mn(IV)O2", "Mn(iv)O2"),
    *_remarked("oxidation number", "Fe2O3", "Fe(III)2O3"),
    *_remarked("oxidation number", "Fe3O4", "Fe(II)Fe(III)2O4"),
    *_remarked("oxidation number", "Cu2O", "Cu(I)2O"),
    *_remarked("oxidation number", "V2O5", "V(V)2O5"),
    *_remarked("the charge", "Fe", "Fe2+", "Fe3+", "Fe^2+", "Fe²⁺", "Fe^{3+}"),
    *_remarked(
        "the charge", "FeC6N6", "[Fe(CN)6]4-", "[Fe(CN)6]⁴⁻", "[Fe(CN)6]^4-", "[Fe(CN)6]^{4-}"
    ),
    *_remarked("the charge", "SO4", "SO42-", "SO4^2-", "SO4(2-)", "SO₄²⁻", "SO4 2-"),
    *_remarked("the charge", "NH4", "NH4+", "NH₄⁺"),
    *_remarked("the charge", "Li", "Li+", "Li⁺", "Li^+"),
    *_remarked("the charge", "Fe2O3", "Fe³⁺₂O²⁻₃", "Fe^{3+}2O^{2-}3"),
    *_remarked("charge '2-'", "SO4", "SO4-2", "SO4--", "SO<sub>4</sub><sup>2-</sup>")
    + _remarked("charge '-1'", "NO3", "NO3^{-1}"),
    *_remarked("oxidation number", "Fe2O3", "FeIII2O3", "Fe^{III}2O3", r"Fe$^{III}_2$O$_3$"),
    *_remarked("oxidation number", "Fe3O4", "FeIIFeIII2O4"),
    *_remarked("oxidation number", "MnO2", "MnIVO2"),
    *_refused("may be SnS2 or SnIVS2", "SnIVS2"),
    *_refused("charge within|may be", "Fe3+2O3", "Na+Cl-"),
    *_refused("raised", "O²", "Li²O"),
    *_remarked("mass number", "Li2O", "⁶Li2O", "^7Li2O", "^{7}Li2O"),
    # Phases and states
    *_remarked(
        "name of a phase", "Al2O3", "α-Al2O3", "alpha-Al2O3", "Al2O3(s)", "Al2O3 (s)", "αAl2O3"
    ),
    *_remarked(
        "name of a phase", "Al2O3", "γ-Al₂O₃", "Al2O3 (corundum)", "Al2O3_corundum", "α–Al2O3"
    ),
    *_remarked(
        "name of a phase", "Li7P3S11", "Li7P3S11 (glass)", "Li7P3S11 glass", "Li7P3S11-glass"
    ),
    *_remarked(
        "name of a phase", "TiO2", "TiO2 (rutile)", "TiO2, anatase", "rutile TiO2", "TiO2 [rutile]"
    ),
    *_remarked("name of a phase", "SiC", "4H-SiC", "6H-SiC", "3C-SiC", "15R-SiC", "β-SiC"),
    *_remarked("name of a phase", "MoS2", "2H-MoS2", "1T'-MoS2", "2H MoS2"),
    *_remarked("name of a phase", "BN", "c-BN", "h-BN", "w-BN", "BN (cubic)"),
    *_remarked("name of a phase", "LiCoO2", "LiCoO2 (R-3m)", "LiCoO2 R-3m", "o-LiCoO2"),
    *_remarked("name of a phase", "TiO2", "TiO2 (P42/mnm)", "TiO2 (I41/amd)"),
    *_refused("space group or atoms", "Li3PS4 (P21)", "NaCl (B1)"),
    *_refused("a name, .* or atoms", "YBa2Cu3O7 (YBCO)", "GaN (BN)", "Fe (BCC)", "ZnO (W)"),
    *_remarked("name of a phase 'LGPS'", "Li10GeP2S12", "Li10GeP2S12 (LGPS)"),
    *_remarked("name of a phase", "Fe3O4", "Fe3O4 (magnetite)", "Fe3O4 [iron oxide]", "Fe3O4 (m)"),
    *_remarked("name of a phase", "NaFeO2", "O3-NaFeO2", "O3-type NaFeO2", "P2-NaFeO2"),
    *_remarked("name of a phase", "MoS2", "MoS2-2H"),
    *_remarked("identifier", "LiCoO2", "LiCoO2 (mp-22526)", "LiCoO2_mp-22526", "LiCoO2 ICSD 1234"),
    *_read("Ca5(PO4)3OH", "Ca5(PO4)3 (OH)"),
    *_refused("L.* no element", "c-LLZO", "LLZO", "LSMO"),
    # Mixtures
    *_remarked("mixture by moles", "Li1.5P0.5S2", "0.75Li2S-0.25P2S5", "0.75Li2S + 0.25P2S5"),
    *_remarked(
        "mixture by moles", "Li150P50S200", "75Li2S-25P2S5", "75Li2S–25P2S5", "75 Li2S - 25 P2S5"
    ),
    *_remarked("mixture by moles", "Li150P50S200", "75 mol% Li2S - 25 mol% P2S5"),
    *_remarked("mixture by moles", "Li1.5P0.5S2", "(Li2S)0.75-(P2S5)0.25"),
    *_read("Li1.5P0.5S2", "(Li2S)0.75(P2S5)0.25"),
    *_read("Li150P50S200", "75Li2S·25P2S5"),
    *_remarked("number 2 before", "LiCl", "2LiCl"),
    *_refused("mixture", "Li2S-P2S5", "Li2S+P2S5", "Li-O", "Ca-Fe-O"),
    *_refused("percent", "70%Li2S-30%P2S5", "LiF + 5 wt% C", "Li2O 5 wt.%"),
    # Variables, ranges, what is not given
    *_refused(
        "variable",
        "Li1-xFePO4",
        "YBa2Cu3O7-δ",
        "YBa2Cu3O7-x",
        "LaMnO3–δ",
        "LixCoO2",
        "Li1+xAlxTi2-x(PO4)3",
    ),
    *_refused("variable", "La1-xSrxMnO3", "xLi2S-(1-x)P2S5", "YBa2Cu3Oy"),
    *_refused("mixture|difference", "YBa2Cu3O7-0.1", "La1-0.2Sr0.2MnO3", "Li-1O", "Li6-7La3Zr2O12"),
    *_remarked(
        "with x = 0.3",
        "Li1.3Al0.3Ti1.7(PO4)3",
        "Li1+xAlxTi2-x(PO4)3 (x = 0.3)",
        "Li1+xAlxTi2−x(PO4)3, x=0.3",
        "Li_{1+x}Al_{x}Ti_{2-x}(PO4)3 with x = 0.3",
        "Li<sub>1+x</sub>Al<sub>x</sub>Ti<sub>2-x</sub>(PO4)3 (<i>x</i> = 0,3)",
    ),
    *_remarked("with x = 0.3", "La0.7Sr0.3MnO3", "La(1-x)SrxMnO3 (x=0.3)", "La1-xSrxMnO3 x = 3/10"),
    *_remarked("x = 0.1, y = 0.2", "La0.7Sr0.1Ca0.2MnO3", "La1-x-ySrxCayMnO3 (x=0.1, y=0.2)"),
    *_remarked("with x", "BaZr0.8Y0.2O2.9", "BaZr1-xYxO3-x/2 (x=0.2)", "BaZr1-xYxO3-0.5x, x=0.2"),
    *_remarked("with δ", "LaMnO2.95", r"LaMnO_{3-\delta} ($\delta$ = 0.05)", "LaMnO3-δ (δ=0.05)"),
    *_remarked("mixture", "Li1.5P0.5S2", "xLi2S-(1-x)P2S5 (x = 0.75)"),
    *_remarked("mixture", "Li150P50S200", "(100-x)Li2S-xP2S5 (x=25)"),
    *_remarked("with x = 1", "SrMnO3", "La1-xSrxMnO3 (x = 1)"),
    *_refused("amount 1-x is -0.5", "La1-xSrxMnO3 (x = 1.5)"),
    *_refused("variable 'y' has a value", "La1-xSrxMnO3 (y = 0.1)"),
    *_refused(
        "variable", "La1-x-ySrxCayMnO3 (x=0.1)", "LixCoO2 (0.5<x<1)", "LixCoO2 (x = 0.1-0.3)"
    ),
    *_refused("between commas", "(Fe,Mn)2O3", "(Mg,Fe)SiO4"),
    *_refused("colon", "Y2O3:Eu", "Li7La3Zr2O12:Al"),
    *_refused("stroke", "Fe/Al", "LiCl/LiF"),
    *_refused("", "", " ", "nan", "NaN", "None", "N/A", "?"),
    *_refused("", "Li2O(", "Li)", "()", "Li1e400", "Li@", "1", "2.5", "Li2O=", "…", "-", "Li..O"),
    *_refused("more than 1000", "Li" * 600),
    # Numbers
    *_remarked("decimal points", "Li1.3Al0.3Ti1.7(PO4)3", "Li1,3Al0,3Ti1,7(PO4)3"),
    *_remarked("fractions", "Na0.6666666666666666MnO2", "Na2/3MnO2", "Na₂/₃MnO₂"),
    *_remarked("uncertainties", "Li0.95FePO4", "Li0.95(2)FePO4"),
    *_remarked("the mark", "Li3PS4", "Li3PS4*", "Li3PS4†"),
    # Isotopes and elements that hardly any formula holds
    *_remarked("D counts as H", "H2O", "D2O"),
    *_remarked("D counts as H", "LiOH", "LiOD"),
    *_refused("tritium", "YBa2Cu3OT", "T2O", "LiT"),
    *_remarked("holds Xe", "XeF2", "XeF2"),
    *_remarked("holds Tc", "TcO2", "TcO2"),
    *_remarked("holds Ac", "Ac2O3", "Ac2O3"),
    *_refused("no known compounds", "Nh3", "Og2O", "NoCl2", "Ts2"),
    # Abbreviations and slips
    *_refused("abbreviation", "BSCCO", "YBCO", "BFO", "KNN", "CIS", "BSCCO2212", "PBSCF"),
    *_refused("short name of a phase", "Bi2212", "Y123", "La214"),
    *_refused("'[A-Z]' is no element", "PZT", "NMC811", "CZTS"),
    *_refused("Li2O meant", "LI2O", "li2o"),
    *_refused("NaCl meant", "nacl", "NACL", "naCl"),
    *_refused("may be .*LiCO3 or LiCoO2|LiCoO2", "LiCOO2"),
    *_refused("may be SO2N or SnO2|may be .*SnO2", "SNO2"),
    *_refused("may be .*PbO", "PBO"),
    *_refused("may be CO or Co", "CO"),
    *_refused("may be .*HfO2", "HFO2"),
    *_refused("may be .*CsI", "CSI"),
    *_refused("may be .*CuO", "CUO"),
    *_refused("may be .*NiO", "NIO"),
    *_refused("TiO2 meant", "TIO2"),
    *_refused(
        "may be .* or .*O", "Li2C03", "Li20", "H20", "Ti02", "LiFeP04", "Li7La3Zr2012", "LiMn204"
    ),
    *_refused("may be .* or .*Cl", "NaCI", "AlCI3", "NaC1"),
    *_refused("short name of a phase", "SS304"),
    *_remarked("@ is left out", "Fe2O3C", "Fe2O3@C"),
    *_read("K2PdSe10", "K2PdSe10"),
    *_read("CHI3", "CHI3"),
    *_read("Fe3C", "Fe3C1"),
    *_read("Cu50Zr50", "Cu50Zr50"),
    *_read("Ag3SI", "Ag3SI"),
    *_read("YB2", "YB2"),
    *_read("CO2", "CO2"),
    *_read("Li2CO3", "Li2CO3"),
    *_read("KSCN", "KSCN"),
    *_read("KOH", "KOH"),
    *_read("HF", "HF"),
    *_read("YOF", "YOF"),
    *_read("VOPO4", "VOPO4"),
    *_read("C60", "C60"),
    *_read("WC", "WC"),
    *_read("KCN", "KCN"),
    *_remarked("capital", "UBC", "UBC"),
    *_remarked("carbonate is Li2CO3", "Li2Co3", "Li2Co3"),
    *_read("SmCo3", "SmCo3"),
    *_read("SmCo5", "SmCo5"),
    *_refused("CYRILLIC", "Li2О", "СаO"),
    *_refused("'Qq' is no element", "Qq2O"),
    *_refused("'Xx' is no element", "Xx2O"),
    *_refused("'Vac?' is no element|vacanc", "LiVacO", "Li□O"),
)


def judge(case: Case) -> tuple[str, str]:
    """Return what became of a formula (read, remarked or refused), and what is wrong with that."""
    try:
        formula = read_formula(case.text)
    except ValueError as exc:
        said = str(exc)
        if not case.plain and re.search(case.refused, said) and len(said) < 1000:
            return "refused", ""
        return "refused", f"refused: {said}"
    outcome = "remarked" if formula.remark else "read"
    if not case.plain:
        return outcome, f"not refused but {formula.amounts} ({formula.remark})"
    wanted = parse_plain(case.plain) or {}
    found = formula.amounts
    if wanted.keys() != found.keys() or any(
        abs(wanted[symbol] - found[symbol]) > 1e-9 for symbol in wanted
    ):
        return outcome, f"{case.plain} but {found} ({formula.remark})"
    if bool(case.remark) != bool(formula.remark) or not re.search(case.remark, formula.remark):
        return outcome, f"remark {formula.remark!r}"
    return outcome, ""
