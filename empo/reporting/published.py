"""Printed values of the EmPO paper for its 2,540 test exchanges, beside which ours are shown.

Cells are separated by `; ` in the order of our columns. EPITOME is its Table 2 without the
BERTScore F1, which is BERTSCORE; UNDERSTANDING its Table 3 (MMLU, Open LLM leaderboard), DIVERSITY
its Table 4, WORDS its Table 5 (the human row of both included), CHARACTERS its mean lengths, SURVEY
its Table 7: Cohen's d of the first system over the second in SURVEY_ASPECTS.
"""

from __future__ import annotations

from collections.abc import Mapping

EPITOME = {
    "baseline": "1.055; —; 1.120; .603; 1.441; 2540",
    "length-controlled": ".786; —; 1.090; .613; .660; 2540",
    "sft": ".773; —; .945; .726; .647; 2540",
    "dpo": ".701; —; .588; .796; .720; 2540",
}
BERTSCORE = {"baseline": ".860", "length-controlled": ".865", "sft": ".870", "dpo": ".868"}
UNDERSTANDING = {"baseline": ".588; .276", "sft": ".585; .270", "dpo": ".584; .266"}

DIVERSITY = {
    "baseline": "2529 (99.6 %); 5339 / 29080; 788; .4453; 31",
    "length-controlled": "2326 (91.6 %); 2625 / 13425; 787; .5333; 35",
    "sft": "2390 (94.1 %); 2085 / 9437; 741; .4790; 48",
    "dpo": "2538 (99.9 %); 2927 / 20074; 806; .6036; 256",
    "human": "2526 (99.4 %); 2746 / 22279; 881; .6564; 370",
}
WORDS = {
    "baseline": ".30 ± .05; .24; .11; .15",
    "length-controlled": ".26 ± .05; .26; .12; .15",
    "sft": ".22 ± .04; .29; .13; .18",
    "dpo": ".29 ± .06; .27; .13; .16",
    "human": ".30 ± .07; .28; .14; .18",
}
CHARACTERS = {
    "baseline": "152",
    "length-controlled": "75",
    "sft": "55",
    "dpo": "63",
    "human": "65",
}
SURVEY_ASPECTS = (
    "emotion_understanding",
    "situational_appropriateness",
    "contextual_naturalness",
    "conversational_engagingness",
)
SURVEY = {
    ("baseline", "human"): ".58; .88; .48; .47",
    ("baseline", "length-controlled"): ".39; .42; .30; .45",
    ("baseline", "sft"): ".50; .72; .42; .53",
    ("baseline", "dpo"): ".38; .70; .17; .30",
    ("dpo", "human"): ".18; .14; .32; .18",
    ("dpo", "length-controlled"): "−.04; .25; −.16; −.17",
    ("dpo", "sft"): ".20; .00; .25; .22",
    ("length-controlled", "human"): ".14; .41; .15; .00",
    ("length-controlled", "sft"): ".06; .26; .08; .04",
    ("sft", "human"): ".19; .01; .01; −.01",
}
REMARK = (
    "Rows marked *published* are the paper's, on the same 2,540 exchanges (its Tables 4 and 5, and "
    "its mean lengths). Its sft and dpo rows of Tables 4 and 5 are of models with α 256, not of "
    "the ones with α 64 whose empathy scores its Table 2 has.\n"
)


def with_published(
    rows: Mapping[str, list[str]], printed: Mapping[str, str], published: bool
) -> list[list[str]]:
    """Rows of the systems, the paper's row of the same name below each, its other rows last."""
    width = max(map(len, rows.values()), default=0)
    theirs = {name: [f"{name}, published", *cells.split("; ")] for name, cells in printed.items()}
    table_rows = []
    for name, cells in rows.items():
        table_rows.append([name, *cells])
        if published and name in theirs:
            table_rows.append(theirs.pop(name))
    if published:
        table_rows += theirs.values()
    return [row + ["—"] * (width + 1 - len(row)) for row in table_rows]
