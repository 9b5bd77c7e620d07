"""The regular expressions by which `phrases` recognises what a text says about an ECG."""

from __future__ import annotations

import re

from data_prep.criteria import CHEST, GROUPS, LIMB

NUMBER = r"(?P<number>[-+−]?\d+(?:\.\d+)?)"
TIME_UNIT = r"\s*(?P<unit>ms\b|msec\b|milliseconds?\b|s\b|sec\b|seconds?\b)"
BPM = r"\s*(?:bpm|beats?\s*(?:per|/|a)\s*min(?:ute)?|/\s*min(?:ute)?|per minute)"
# What may stand between the name of a quantity and its number.
LINK = (
    r"(?:\s*(?:\b(?:is|was|are|of|at|to|not|lasts|about|approximately|approx|around|measures?|measured|"
    r"measuring|interval|duration|width|time|complex(?:es)?|wave|amplitude|frontal|mean|"
    r"normal|prolonged|short(?:ened)?|narrow|wide|broad|borderline|with|an?|the|and|"
    r"left|right|extreme|deviation|deviated|leftward|rightward|Bazett)\b|[:=,(~≈)]))*\s*"
)
LEAD = r"(?:aV[RLF]|V[1-6]|I{1,3})"
LEAD_ITEM = (
    rf"(?:(?:leads?\s+)?{LEAD}(?:\s*(?:-|–|to|through)\s*(?:{LEAD}|[2-6]\b))?\b"
    r"(?:\s*\(-?[\d.]+\s*mV\))?|(?:high\s+)?(?:inferior|lateral|anterior|chest|precordial|limb|all)"
    r"(?:\s+leads)?)"
)
LEADS = rf"(?P<leads>{LEAD_ITEM}(?:\s*(?:,\s*and|,|and|&|/)\s*(?:in\s+)?{LEAD_ITEM})*(?:\s+leads)?)"
IN_LEADS = (
    rf"(?:\s+(?:is|are|seen|present|noted|found))*\s*(?:in|across|over|of)\s+(?:the\s+)?"
    rf"(?:leads?\s+)?{LEADS}(?:\s*,?\s*(?:except|but not|apart from)(?:\s+(?:for|in))?\s+"
    rf"(?P<left_out>{LEAD_ITEM}(?:\s*(?:,|and)\s*{LEAD_ITEM})*))?"
)
DENIAL = re.compile(
    r"\b(?:no|not|without|absence of|absent|denies|neither|nor|free of)\b(?:\s+[\w-]+){0,2}\s*$",
    re.IGNORECASE,
)
BOUND = re.compile(r"(?:\b(?:over|under|above|below|than|least|most)|[<>≤≥])\s*$", re.IGNORECASE)
GROUP_WORDS = {
    **GROUPS,
    "precordial": GROUPS["chest"],
    "anterior": ("V1", "V2", "V3", "V4"),
    "limb": LIMB,
    "all": LIMB + CHEST,
}
# The T wave of these groups is one claim, about the middle of the group.
JUDGED_TOGETHER = {*GROUPS, "precordial", "anterior"}
INTERVALS = {
    "qtc_fridericia_ms": r"\bQTc\s*[-(]?\s*(?:F\b|Fridericia\b)\)?",
    "qtc_framingham_ms": r"\bQTc\s*[-(]?\s*Framingham\b\)?",
    "qtc_hodges_ms": r"\bQTc\s*[-(]?\s*Hodges\b\)?",
    "qtc_bazett_ms": r"\bQTc\s*(?:[-(]?\s*(?:B\b|Bazett\b)\)?)?|\bcorrected QT\b",
    "pr_ms": r"\bP[RQ]\b",
    "qrs_ms": r"\bQRS\b",
    "qt_ms": r"\bQT\b(?!\s*/)",
    "p_ms": r"\bP[ -]wave duration\b",
}
FINDINGS = {
    "pr_prolonged": r"\b(?:first[- ]degree|1st[- ]degree) (?:AV|atrioventricular) (?:block|delay)\b"
    r"|\bprolonged PR\b|\bPR (?:interval )?(?:is )?prolonged\b",
    "pr_short": r"\bshort(?:ened)? PR\b|\bPR (?:interval )?(?:is )?short(?:ened)?\b",
    "qtc_prolonged": r"\bprolonged QTc?\b|\bQTc? (?:interval )?(?:is )?prolonged\b"
    r"|\bQTc? prolongation\b",
    "p_present": r"(?:(?<=with )|(?<=no )|(?<=without )|(?<=visible )|(?<=absent ))P[ -]waves?\b"
    r"|\bP[ -]waves? (?:are |is )?(?:present|visible|seen|before (?:each|every) QRS)\b",
}
RHYTHM = (
    r"\b(?P<word>normal sinus rhythm|sinus (?:rhythm|bradycardia|tachycardia|arrhythmia)"
    r"|atrial fibrillation|bradycardia|tachycardia)\b"
)
AXIS_WORD = (
    r"\b(?P<a>normal|left|right|extreme|leftward|rightward)(?: (?:QRS|frontal|electrical))* axis"
    r"(?: deviation)?\b"
    r"|\baxis(?: \w+)? (?:deviation|deviated) to the (?P<b>left|right)\b"
    r"|\baxis(?:\s+(?:is|was|deviated|shows))*[\s:]+(?P<c>normal|left|right|extreme|leftward|"
    r"rightward)\b|\bno axis (?P<d>deviation)\b"
)
QRS_WORD = (
    r"\b(?P<a>narrow|wide|broad|widened)[- ](?:QRS|complex)\b"
    r"|\bQRS(?: complex(?:es)?| duration)?(?:\s+(?:is|are|not))*[\s:]+"
    r"(?P<b>narrow|wide|broad|widened|prolonged)\b"
)
REGULAR = r"\b(?P<word>irregularly irregular|irregular|regular)\b"
TRANSITION = (
    r"\b(?:R/S\s+)?transition(?: zone| lead)?(?:\s+(?:is|at|in|occurs|lies|lead))*[\s:]+"
    r"(?P<lead>V[1-6])\b|\b(?P<none>no (?:R/S )?transition)\b"
)
ST = r"\bST(?:[- ]segments?)?[- ](?P<what>elevation|depression|deviation|changes?)s?\b"
ST_SIZE = r"(?:\s*(?:of|by|:)?\s*(?P<mv>[-+−]?\d+(?:\.\d+)?)\s*(?P<mv_unit>mV|mm)\b)?"
POLARITY = {
    "upright": r"upright|positive",
    "inverted": r"inverted|negative|inversions?",
    "flat": r"flat|flattened|isoelectric",
}
WAVE_SIZE = (
    r"\b(?P<wave>[PQRST])(?:[- ]waves?)?(?: amplitude)?(?:\s+(?:is|of|measures|about))*[\s:]+"
    rf"{NUMBER}\s*mV"
)
