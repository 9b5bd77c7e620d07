"""Text about an ECG → claims: quantity, value, unit, leads and place in the text.

Each pattern names what it recognises; whatever no pattern recognises makes no claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.criteria import CHEST, LIMB
from data_prep.patterns import (
    AXIS_WORD,
    BOUND,
    BPM,
    DENIAL,
    FINDINGS,
    GROUP_WORDS,
    IN_LEADS,
    INTERVALS,
    JUDGED_TOGETHER,
    LEAD,
    LEAD_ITEM,
    LINK,
    NUMBER,
    POLARITY,
    QRS_WORD,
    REGULAR,
    RHYTHM,
    ST,
    ST_SIZE,
    TIME_UNIT,
    TRANSITION,
    WAVE_SIZE,
)

Value = float | bool | str


@dataclass(frozen=True)
class Claim:
    """One checkable statement of a text.

    Attributes:
        quantity: As in the measurement's summary (`heart_rate_bpm`), or the name of a finding.
        value: A number in `unit`, a word, or whether the finding is there.
        unit: `bpm`, `ms`, `deg`, `mV` or empty.
        start: First character in the text.
        end: One past the last character.
        leads: The leads it is about, empty for the whole record.
        text: The characters themselves.
        negated: Whether the text denies the value.
    """

    quantity: str
    value: Value
    unit: str
    start: int
    end: int
    leads: tuple[str, ...]
    text: str
    negated: bool = False


Found = tuple[str, Value, str, tuple[str, ...], tuple[int, int], bool]


def parse(text: str) -> list[Claim]:
    """Returns the claims of a text in the order of their places."""
    claims: list[Claim] = []
    for reader in (_st, _t_waves, _r_s_list, _sizes, _rates, _intervals, _axis, _words):
        for quantity, value, unit, leads, (start, end), negated in reader(text):
            claim = Claim(quantity, value, unit, start, end, leads, text[start:end], negated)
            if not any(_clash(claim, other) for other in claims):
                claims.append(claim)
    return sorted(claims, key=lambda claim: (claim.start, claim.end))


def _clash(one: Claim, other: Claim) -> bool:
    """Returns whether two claims say the same of the same leads with the same characters."""
    overlap = one.start < other.end and other.start < one.end
    return overlap and (one.quantity, one.leads) == (other.quantity, other.leads)


def _find(pattern: str, text: str) -> Iterator[re.Match[str]]:
    return re.finditer(pattern, text, re.IGNORECASE)


def _denied(text: str, start: int) -> bool:
    """Returns whether a denial stands just before `start` in the same clause."""
    clause = re.split(r"[.;,:](?!\d)|\bbut\b", text[:start])[-1]
    return bool(DENIAL.search(clause))


def _number(text: str) -> float:
    return float(text.replace("−", "-"))


def expand_leads(text: str) -> tuple[str, ...]:
    """Returns the leads that a phrase names: ranges (`V2-V4`) and groups are written out."""
    order = LIMB + CHEST
    named = {lead.lower(): lead for lead in order}
    found: list[str] = []
    pattern = rf"({LEAD})(?:\s*(?:-|–|to|through)\s*({LEAD}|[2-6]\b))?\b|\b([a-z]{{3,}})\b"
    for first, last, word in re.findall(pattern, text, re.IGNORECASE):
        if word:
            found += GROUP_WORDS.get(word.lower(), ())
        elif last:
            last = f"V{last}" if last.isdigit() else last
            a, b = order.index(named[first.lower()]), order.index(named[last.lower()])
            found += order[a : b + 1]
        else:
            found.append(named[first.lower()])
    return tuple(dict.fromkeys(found))


def _rates(text: str) -> Iterator[Found]:
    named = rf"\b(?P<atrial>atrial )?rate\b{LINK}{NUMBER}(?:{BPM})?"
    for match in _find(rf"{named}|(?P<bare>\b\d+(?:\.\d+)?){BPM}", text):
        if match["atrial"]:
            continue
        number, start = ("bare" if match["bare"] else "number"), match.start()
        # "over 100 bpm" bounds the rate and does not claim it.
        if BOUND.search(text[: match.start(number)]):
            continue
        value, denied = _number(match[number]), _denied(text, match.start(number))
        yield "heart_rate_bpm", value, "bpm", (), (start, match.end()), denied


def _intervals(text: str) -> Iterator[Found]:
    for match in _find(rf"\bQT\s*/\s*QTc{LINK}(?P<a>\d+)\s*/\s*(?P<b>\d+)\s*ms", text):
        yield "qt_ms", float(match["a"]), "ms", (), (match.start(), match.end("a")), False
        yield "qtc_bazett_ms", float(match["b"]), "ms", (), (match.start("b"), match.end()), False
    taken: list[tuple[int, int]] = []
    for quantity, name in INTERVALS.items():
        for match in _find(rf"(?:{name}){LINK}{NUMBER}{TIME_UNIT}", text):
            if any(a < match.end() and match.start() < b for a, b in taken):
                continue
            taken.append(match.span())
            factor = 1.0 if match["unit"].lower().startswith("m") else 1000.0
            denied = _denied(text, match.start("number"))
            yield quantity, _number(match["number"]) * factor, "ms", (), match.span(), denied


def _axis(text: str) -> Iterator[Found]:
    degrees = r"(?:\s*(?:°|deg(?:rees?)?\b)|(?![\d.]*\s*(?:\d|bpm|ms|mV|/)))"
    for match in _find(rf"\baxis\b{LINK}{NUMBER}{degrees}", text):
        start = match.start("number")
        value, denied = _number(match["number"]), _denied(text, start)
        yield "axis_deg", value, "deg", (), (start, match.end()), denied
    for match in _find(AXIS_WORD, text):
        if match["d"]:
            yield "axis_category", "normal", "", (), match.span(), False
            continue
        word = (match["a"] or match["b"] or match["c"]).lower().removesuffix("ward")
        yield "axis_category", word, "", (), match.span(), _denied(text, match.start())


def _words(text: str) -> Iterator[Found]:
    for match in _find(RHYTHM, text):
        yield "rhythm", match["word"].lower(), "", (), match.span(), _denied(text, match.start())
    for match in _find(REGULAR, text):
        value = not match["word"].lower().startswith("irregular")
        denied = _denied(text, match.start())
        yield "rhythm_regular", value, "", (), match.span(), denied
    for match in _find(QRS_WORD, text):
        wide = (match["a"] or match["b"]).lower() != "narrow"
        denied = _denied(text, match.start()) or " not " in match.group()
        yield "qrs_wide", wide, "", (), match.span(), denied
    for match in _find(TRANSITION, text):
        lead = "none" if match["none"] else match["lead"].upper()
        yield "transition_lead", lead, "", (), match.span(), False
    for quantity, pattern in FINDINGS.items():
        for match in _find(pattern, text):
            yield quantity, True, "", (), match.span(), _denied(text, match.start())


def _st(text: str) -> Iterator[Found]:
    both = r"\bST(?:[- ]segments?)?[- ]elevation (?:or|and|nor) depression\b"
    for match in _find(rf"{both}|{ST}{ST_SIZE}(?:{IN_LEADS})?", text):
        denied = _denied(text, match.start())
        what = (match["what"] or "deviation").lower()
        quantity = f"st_{what}" if what in ("elevation", "depression") else "st_deviation"
        leads = expand_leads(match["leads"]) if match["leads"] else ()
        yield quantity, True, "", leads, match.span(), denied
        if match["mv"] and not denied:
            yield from _st_level(match, -1.0 if what == "depression" else 1.0, leads)
        if match["leads"]:
            yield from _st_levels_in(match, -1.0 if what == "depression" else 1.0)


def _st_level(match: re.Match[str], sign: float, leads: tuple[str, ...]) -> Iterator[Found]:
    factor = 0.1 if match["mv_unit"] == "mm" else 1.0
    value = sign * abs(_number(match["mv"])) * factor
    for lead in leads:
        yield "st_mv", value, "mV", (lead,), match.span("mv"), False


def _st_levels_in(match: re.Match[str], sign: float) -> Iterator[Found]:
    """Yields the levels given behind each lead: `V2 (0.25 mV)`."""
    for inner in _find(rf"({LEAD})\s*\((-?[\d.]+)\s*mV\)", match["leads"]):
        start = match.start("leads")
        leads = expand_leads(inner[1])
        span = (start + inner.start(), start + inner.end())
        yield "st_mv", sign * abs(float(inner[2])), "mV", leads, span, False


def _t_waves(text: str) -> Iterator[Found]:
    """Yields T polarity: one claim a lead, or one for a group of leads that is named as such."""
    words = "|".join(POLARITY.values())
    for sentence in re.finditer(r"(?:[^.]|\.(?=\d))+", text):
        if not re.search(r"\bT(?:[- ]waves?)?\b(?!\s*\d)", sentence.group()):
            continue
        part = rf"\b(?P<word>{words})\b(?:\s+T[- ]waves?)?(?:{IN_LEADS})?"
        for match in _find(part, sentence.group()):
            word = match["word"].lower()
            polarity = next(p for p, w in POLARITY.items() if re.fullmatch(w, word))
            start, end = sentence.start() + match.start(), sentence.start() + match.end()
            denied = _denied(text, start) or _denied(text, start - 1)
            if not match["leads"]:
                if not _is_st(sentence.group(), match.start()):
                    yield "t_polarity", polarity, "", (), (start, end), denied
                continue
            base = sentence.start() + match.start("leads")
            left_out = expand_leads(match["left_out"] or "")
            for leads, (a, b) in _lead_items(match["leads"], left_out):
                yield "t_polarity", polarity, "", leads, (base + a, base + b), denied


def _is_st(sentence: str, at: int) -> bool:
    return bool(re.search(r"\bST\b[^,;]*$", sentence[:at]))


def _lead_items(
    text: str, left_out: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[int, int]]]:
    """Yields each named lead by itself and each named group as one, without those left out."""
    for item in re.finditer(LEAD_ITEM, text, re.IGNORECASE):
        leads = tuple(lead for lead in expand_leads(item.group()) if lead not in left_out)
        words = set(re.findall(r"[a-z]+", item.group().lower()))
        grouped = not left_out and bool(words & JUDGED_TOGETHER)
        for part in [leads] if grouped else [(lead,) for lead in leads]:
            yield part, item.span()


def _r_s_list(text: str) -> Iterator[Found]:
    """Yields the sizes of a list such as `R/S in the limb leads (mV): I 0.62/0.10, …`."""
    for block in _find(r"\bR/S\b[^.:]*:(?P<list>(?:[^.;]|\.(?=\d))+)", text):
        for item in _find(rf"\b({LEAD})\s+(?P<r>\d+\.?\d*)/(?P<s>\d+\.?\d*)", block["list"]):
            base, leads = block.start("list"), expand_leads(item[1])
            for key in ("r", "s"):
                span = (base + item.start(key), base + item.end(key))
                yield f"{key}_amp_mv", float(item[key]), "mV", leads, span, False


def _sizes(text: str) -> Iterator[Found]:
    behind = (
        rf"\b(?P<wave>[PQRST])(?:[- ]waves?)?(?: amplitude)?{IN_LEADS}"
        rf"(?:\s+(?:is|of|measures|about))*[\s:]+{NUMBER}\s*mV"
    )
    sizes = (*_find(rf"{WAVE_SIZE}{IN_LEADS}", text), *_find(behind, text))
    for match in sizes:
        quantity = f"{match['wave'].lower()}_amp_mv"
        for lead in expand_leads(match["leads"]):
            yield quantity, _number(match["number"]), "mV", (lead,), match.span(), False
