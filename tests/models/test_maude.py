"""Models of sessions, searched whole by Maude: who reaches what by a stolen account, and whether
two honest people ever lose a message, whatever order things come in. Each model says what it leaves
out, and which of its rules clients have."""

from itertools import product
from pathlib import Path

import maude
import pytest

HERE = Path(__file__).parent
PUBLIC = "g(lA), g(lB), g(xP), g(z), sec(z)"
BOB = ", sec(xP), sec(lB), sec(sB)"
LOST = (
    "net(W:Way, N:Net, pair([X:Side | S:Sess | G:Nat | V:Nat | K:Nat | Q:Bool | false | M:Bool],"
    " H:Has))"
)
"""An end at which somebody has not got the other's message."""
BEGINNINGS = list(product(("first", "known"), ("both", "one")))


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    maude.init(advise=False)


def model(name: str, **changed: bool) -> "maude.Module":
    """A module of NAME.maude, under a name of its own, with other values for its switches."""
    text = (HERE / f"{name}.maude").read_text()
    own = "-".join([name.upper(), *changed])
    assert f"mod {name.upper()} is" in text
    text = text.replace(f"mod {name.upper()} is", f"mod {own} is")
    for switch, value in changed.items():
        before, after = (f"eq {switch} = {str(v).lower()} ." for v in (not value, value))
        assert before in text, switch
        text = text.replace(before, after)
    code = "\n".join(line.partition("---")[0] for line in text.splitlines())
    maude.input(code)
    found = maude.getModule(own)
    assert found is not None
    return found


def reached(way: str, stolen: str, goal: str, phase: str = "P:Phase") -> bool:
    """Whether who has what is stolen comes to know the goal, or to that phase, under mode(way)."""
    module = model("redirect")
    start = module.parseTerm(f"mode({way}) < {PUBLIC}{stolen} | idle >")
    known = f"K:Know, {goal}" if goal else "K:Know"
    end = module.parseTerm(f"mode({way}) < {known} | {phase} >")
    return next(iter(start.search(maude.ANY_STEPS, end)), None) is not None


def loses(module: "maude.Module", beginning: str, way: str) -> bool:
    start = module.parseTerm(f"{beginning}({way})")
    end = module.parseTerm(LOST)
    return next(iter(start.search(maude.NORMAL_FORM, end)), None) is not None


@pytest.mark.parametrize("rule", ["old", "new"])
@pytest.mark.parametrize("also", ["", ", sec(lA)", ", sec(sA)"], ids=["", "X25519", "ML-KEM"])
def test_a_stolen_account_of_bob_begins_as_alice_and_gets_no_answer(also: str, rule: str) -> None:
    """Nor if one of X25519 and ML-KEM is broken, and so that key of alice's known too; by the key
    schedule alone, whichever session is written on."""
    way = f"{rule}, new"
    assert reached(way, BOB + also, "", "opened")
    assert reached(way, BOB + also, "", "answered")
    assert not reached(way, BOB + also, "next")
    assert not reached(way, BOB + also, "unacked")
    assert not reached(way, BOB + also, "", "confirmed")


def test_who_has_stolen_nothing_begins_nothing_and_who_has_both_accounts_is_alice() -> None:
    assert not reached("new, new", "", "", "opened")
    assert reached("new, new", BOB + ", sec(lA), sec(sA)", "", "confirmed")


def test_without_turn_1_to_the_claimed_keys_or_lives_a_conversation_is_redirected() -> None:
    assert reached("old, old", BOB, "next")
    assert reached("old, old", BOB, "unacked")
    assert reached("new, old", BOB, "next")
    assert not reached("new, old", BOB, "unacked")


@pytest.mark.parametrize(("beginning", "way"), BEGINNINGS)
def test_honest_people_who_both_lose_everything_once_get_each_message(
    beginning: str, way: str
) -> None:
    module = model("honest")
    assert not loses(module, beginning, way)
    everything = module.parseTerm(f"{beginning}({way})").search(
        maude.ANY_STEPS, module.parseTerm("S:State")
    )
    assert sum(1 for _ in everything) > 20


@pytest.mark.parametrize("switch", ["heeds", "free", "bound"])
def test_without_any_of_the_rules_a_message_is_lost(switch: str) -> None:
    """Nothing is sent again to a new life; nobody answers before being confirmed; a session of a
    former life is sent on."""
    module = model("honest", **{switch: False})
    assert any(loses(module, beginning, way) for beginning, way in BEGINNINGS)
