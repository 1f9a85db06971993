"""Models of sessions, searched whole by Maude: who reaches what by a stolen account, and whether
two honest people ever lose a message, whatever order things come in; and of what heals them:
offers, new keys, and starts that come again. Each model says what it leaves out."""

import re
from itertools import product
from pathlib import Path

import maude
import pytest

from cbfs_common.session.states import TABLE, Action, Event, Stage

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


def test_without_the_order_of_lives_a_message_is_lost() -> None:
    """A life counts although its proof comes after that of the next one. It is so when it has not
    counted before."""
    module = model("honest", late=False)
    assert loses(module, "first", "both")
    assert loses(module, "first", "one")


class Graph:
    """All states of a model from a beginning on: those that its ``good`` and ``bad`` are true of,
    and ``stuck``, those from which no good one can be reached."""

    def __init__(self, module: "maude.Module", beginning: str) -> None:
        graph = maude.RewriteGraph(module.parseTerm(beginning))
        before: list[list[int]] = [[]]
        state = 0
        while state < graph.getNrStates():
            assert state < STATES_MAX
            number = 0
            while (after := graph.getNextState(state, number)) >= 0:
                before += ([] for _ in range(after + 1 - len(before)))
                before[after].append(state)
                number += 1
            state += 1
        self.size = state
        kinds = [module.findSort("State").kind()], module.findSort("Bool").kind()
        yes = module.parseTerm("true")

        def having(name: str) -> set[int]:
            symbol, found = module.findSymbol(name, *kinds), set()
            for number in range(state):
                term = symbol.makeTerm([graph.getStateTerm(number)])
                term.reduce()
                if term == yes:
                    found.add(number)
            return found

        self.bad, self.good = having("bad"), having("good")
        reaching, todo = set(self.good), list(self.good)
        while todo:
            for number in before[todo.pop()]:
                if number not in reaching:
                    reaching.add(number)
                    todo.append(number)
        self.stuck = set(range(state)) - reaching


STATES_MAX = 60_000


def reaches_bad(module: "maude.Module", beginning: str, bad: str) -> bool:
    end = module.parseTerm(bad)
    return next(iter(module.parseTerm(beginning).search(maude.ANY_STEPS, end)), None) is not None


def test_what_has_no_receipt_is_offered_until_it_is_there_and_shown_once() -> None:
    graph = Graph(model("offers"), "begin")
    assert graph.good
    assert not graph.stuck
    assert not graph.bad


@pytest.mark.parametrize("switch", ["offers", "asks", "repeats"])
def test_without_any_of_the_rules_of_offers_something_stays_missing(switch: str) -> None:
    """It is not offered again; it is not asked for; a receipt is told once."""
    assert Graph(model("offers", **{switch: False}), "begin").stuck


def test_without_ids_something_is_shown_twice() -> None:
    twice = "[L:Lines | N:Net | I:Number & I:Number & S:Shown | D:Debts]"
    assert not reaches_bad(model("offers"), "begin", twice)
    assert reaches_bad(model("offers", ids=False), "begin", twice)


ROTATIONS = [f"begin({why}, {who})" for why in ("planned", "stolen") for who in ("alice", "bob")]


@pytest.mark.parametrize("beginning", ROTATIONS)
def test_what_was_written_before_new_keys_arrives_and_a_thief_has_nothing_of_it(
    beginning: str,
) -> None:
    """Nor does what is written under the old keys pass once the new ones are proven."""
    graph = Graph(model("rotated"), beginning)
    assert graph.good
    assert not graph.stuck
    assert not graph.bad


@pytest.mark.parametrize(
    ("switch", "mark"), [("reseals", "exposed"), ("refuses", "fooled"), ("renews", "fooled")]
)
def test_without_any_of_the_rules_of_new_keys_the_old_ones_are_good_for_something(
    switch: str, mark: str
) -> None:
    """What was sealed for them leaves; they are read although another life is proven; no life is
    another."""
    module = model("rotated", **{switch: False})
    end = f"rot(W:Why, {mark}, N:Net, H:Has)"
    assert all(
        reaches_bad(module, beginning, end) for beginning in ROTATIONS if "stolen" in beginning
    )


def test_without_sending_again_something_is_lost_by_a_server_or_a_theft() -> None:
    """And by nothing else: what was on its way at a planned change is read, as the old keys are
    good for that for a while."""
    assert Graph(model("rotated", again=False), "begin(planned, alice)").stuck
    for beginning in ROTATIONS:
        lost = Graph(model("rotated", again=False, loses=False), beginning).stuck
        assert bool(lost) is ("stolen" in beginning)
        if not lost:
            unread = model("rotated", again=False, loses=False, reads=False)
            assert Graph(unread, beginning).stuck


REPLAYS = "[K:Nat | S:Ses | R:Set | P:Bool | H:Set | {}]"


@pytest.mark.parametrize("mark", ["twice", "displaced"])
def test_no_start_to_a_last_resort_prekey_begins_anew_or_displaces_a_session(mark: str) -> None:
    """But what comes for the first time of one that was crowded out brings it back."""
    assert not reaches_bad(model("replays"), "begin", REPLAYS.format(mark))
    for switch in ("remembers", "together", "counts"):
        assert reaches_bad(model("replays", **{switch: False}), "begin", REPLAYS.format(mark))
    # the key of a message that has opened
    assert reaches_bad(model("replays", clean=False), "begin", REPLAYS.format("twice"))
    comes_back = "[2 | s(1, 2, none) | r(2, 1) , R:Set | P:Bool | m(1, 0) , H:Set | fine]"
    assert reaches_bad(model("replays"), "begin", comes_back)
    assert not reaches_bad(model("replays", back=False), "begin", comes_back)


STAGES = {"out": Stage.OUT, "in": Stage.IN, "ans": Stage.IN, "conf": Stage.CONFIRMED}
EVENTS = {
    "start": Event.BEGUN,
    "open0": Event.START,
    "open1": Event.ANSWER,
    "open2": Event.PROOF,
}
"""Rules of the model of honest people by which sessions come about or get on, and what the client
calls that."""


def test_sessions_of_the_model_get_on_as_those_of_clients() -> None:
    """By the same events, from and to the same states; and a life counts in the same ones."""
    text = (HERE / "honest.maude").read_text()
    rules = re.findall(r"c?rl \[(\w+)\] :(.*?)\s=>(.*?)(?= if |\s\.\n)", text, re.DOTALL)
    moved = {}
    for label, before, after in rules:
        stages = [
            {STAGES[phase] for phase in re.findall(r": (\w+) / ", side)} for side in (before, after)
        ]
        if stages[1] not in (stages[0], set()):
            was, (now,) = next(iter(stages[0]), None), stages[1]
            moved[label] = (was, now, "later(V, n)" in after)
    assert set(moved) == set(EVENTS)
    for label, (was, now, counts) in moved.items():
        change = TABLE[was, EVENTS[label]]
        assert change.stage is now, label
        assert (Action.COUNT in change.actions) is counts, label
