"""What ProVerif has said of the models is what is written beside them. ProVerif itself is run by
``./run prove``, as it is in no registry of packages."""

from pathlib import Path

import pytest

from tests.models.proofs import (
    NO_END,
    PRIMITIVES,
    Model,
    check_case,
    in_case,
    models,
    parse_output,
    read,
    read_results,
    write_results,
)

MODELS = models()


@pytest.fixture(params=MODELS, ids=[model.path.stem for model in MODELS])
def model(request: pytest.FixtureRequest) -> Model:
    found = request.param
    assert isinstance(found, Model)
    return found


def test_results_are_of_this_text_and_of_all_cases(model: Model) -> None:
    results = read_results(model.results)
    assert results.digest == model.digest, "run ./run prove --write"
    assert results.version
    assert results.queries == model.queries
    assert tuple(results.said) == model.cases
    assert not [case for case, said in results.said.items() if NO_END in said]
    assert write_results(results) == model.results.read_text()


def test_each_case_changes_the_text(model: Model) -> None:
    texts = {in_case(PRIMITIVES.read_text(), c) + in_case(model.text, c) for c in model.cases}
    assert len(texts) == len(model.cases)
    for case in model.cases:
        check_case(model, case)


def test_what_is_asked_is_about_something(model: Model) -> None:
    """The query "runs" says that nothing happens; it must be false, or all others might be true of
    a model that does nothing. Equivalences have none: they compare what is sent."""
    if "runs" in model.queries:
        said = read_results(model.results).said["-"]
        assert said[model.queries.index("runs")] == "false"
    else:
        assert model.queries == ("equivalence",)


def test_without_a_rule_something_is_false_that_was_true(model: Model) -> None:
    said = read_results(model.results).said
    assert model.without
    for case in model.without:
        before = said["+".join(case.split("+")[1:]) or "-"]
        lost = [b == "true" and w != "true" for b, w in zip(before, said[case], strict=True)]
        assert any(lost), case


def test_a_results_file_of_another_text_is_seen(model: Model) -> None:
    other = Model(model.path, model.text + " ", model.queries, model.cases, model.without)
    assert read_results(model.results).digest != other.digest


def test_marks_change_lines() -> None:
    text = "a (*- x *)\n  (*+ x b *)\nc\n"
    assert in_case(text, "-") == "a\n\nc\n"
    assert in_case(text, "x+y") == "\n  b\nc\n"


def test_each_answer_is_read_with_its_query() -> None:
    """Not the remark about a query that ProVerif adds, nor an answer to what was not asked."""
    model = next(model for model in MODELS if model.path.stem == "turn0")
    output = "RESULT not a is true.\nRESULT b ==> c is false.\nRESULT (even b is false.)\n"
    output += "RESULT not d cannot be proved.\n"
    assert parse_output(model, "-", output) == ("true", "false", "-", "unknown")
    with pytest.raises(ValueError, match="once"):
        parse_output(model, "once", output)


def test_a_model_says_at_its_top_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pv"
    for text in (
        "(*\n query a: x\n   case: -\n*)\n",
        "(*\n query a: x\n   case: b\n*)\nquery a.\n",
        "(*\n query a: x\n   case: - b b\n*)\nquery a.\nb (*- b *)\n",
        "(*\n query a: x\n   case: -\n*)\nquery a.\nb (*- b *)\n",
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"x\.pv"):
            read(path)
