import pytest

from data_prep.readers.names import inverted, lead_name, lead_names, shown
from data_prep.records import LEADS, BadInput

SPELLED = {
    "I": ["i", "I+", "DI", "D1", "Lead I", "lead_i", "LEAD-I", "ECG I", "ecg_i", "EKG lead I"],
    "II": ["MDC_ECG_LEAD_II", "MDC_ECG_ELEC_POTL_II", "Lead II (Einthoven)", "DII", "d2", " II "],
    "III": ["DIII", "Derivation III", "iii"],
    "aVR": ["AVR", "avr", "aVR+", "VR", "Lead aVR", "MDC_ECG_LEAD_AVR", "-aVR", "−aVR", "aV R"],
    "aVL": ["aVL, augmented voltage, left", "VL", "AVL"],
    "aVF": ["VF", "avf", "a-VF"],
    "V1": ["v1", "V1+", "C1", "V 1", "ECG V1", "MDC_ECG_LEAD_V1", "V_1"],
    "V6": ["c6", "Lead V6", "ecg:V6"],
}


@pytest.mark.parametrize("lead", SPELLED)
def test_every_spelling_is_its_lead(lead):
    assert [lead_name(text) for text in SPELLED[lead]] == [lead] * len(SPELLED[lead])


def test_the_usual_names_are_themselves():
    assert [lead_name(lead) for lead in LEADS] == list(LEADS)


@pytest.mark.parametrize(
    "text",
    ["", "MLII", "MCL1", "V7", "V3R", "V", "IV", "Lead 1", "channel 1", "1", "ECG", "VX", "aV",
     "RESP", "C7", "D4", "II-III", "V1 V2", "LA"],
)  # fmt: skip
def test_what_may_be_something_else_is_none(text):
    assert lead_name(text) is None


def test_numbered_channels_are_no_leads_and_the_iecs_are():
    assert lead_names("x", [f"C{n}" for n in range(1, 7)]) == list(LEADS[6:])
    assert lead_names("x", [f"C{n}" for n in range(1, 9)]) == [None] * 8
    assert lead_names("x", [f"d{n}" for n in range(3)]) == [None] * 3
    assert lead_names("x", ["D1", "D2", "D3", "C1"]) == ["I", "II", "III", "V1"]


def test_a_lead_that_is_there_twice_is_refused():
    with pytest.raises(BadInput, match=r"x: lead aVR is there twice \('-aVR' and 'AVR'\)"):
        lead_names("x", ["-aVR", "I", "AVR"])


def test_only_a_sign_inverts():
    assert [inverted(text) for text in ("-aVR", "− aVR", "–I")] == [True] * 3
    assert [inverted(text) for text in ("aVR", "a-VR", "V1+", "")] == [False] * 4


@pytest.mark.parametrize("text", ["John Doe", "MRN1234567", "1950-02-03", "x" * 17, ""])
def test_a_name_that_could_be_a_persons_is_not_shown(text):
    assert shown(text, 3) == "signal 3"
    assert shown("MLII", 3) == "signal 'MLII'"
