"""The shell of every command: whose folder it is, what goes on, what is done already."""

import json
import math

import pytest
from mlflow import MlflowClient

from facevae.commands.run_step import RESULT, Step, Work, read_result, run_step, write_result
from facevae.config import TrackingConfig
from facevae.errors import UserError
from facevae.runs.lock import run_lock
from facevae.tracking import read_run_id

TRACKING = TrackingConfig(system_metrics=False)
IDENTITY = {"model": {"name": "small", "sizes": [1, 2]}, "seed": 3}
PRODUCT = "product.txt"


def step(output, identity=IDENTITY, **changes) -> Step:
    return Step(
        command="try",
        output=str(output),
        tracking=TRACKING,
        claim="claim.json",
        identity=identity,
        written={"": r"product\.txt|result\.json", "parts": r"\d+\.txt"},
        **({"product": PRODUCT} | changes),
    )


class Command:
    """A command that counts how often it was prepared and worked, and with which claim."""

    def __init__(self, output, identity=IDENTITY):
        self.output, self.identity = output, identity
        self.claims: list[dict] = []
        self.worked = 0

    def prepare(self, claimed) -> Work:
        self.claims.append(dict(claimed))
        return Work({"setting": 1}, self.identity, self.work)

    def work(self, run) -> dict[str, float]:
        self.worked += 1
        (self.output / PRODUCT).write_text(str(self.worked))
        return {"worked": float(self.worked)}

    def fail(self, run) -> dict[str, float]:
        raise RuntimeError("in the work")


def run(output, **changes) -> tuple[Command, dict[str, float]]:
    command = Command(output, changes.get("identity", IDENTITY))
    return command, run_step(step(output, **changes), command.prepare)


def test_a_new_step_claims_its_folder_works_and_leaves_its_result(tmp_path):
    command, metrics = run(tmp_path / "out")
    assert (command.claims, metrics) == ([{}], {"worked": 1.0})
    assert json.loads((tmp_path / "out" / "claim.json").read_text()) == IDENTITY
    assert read_result(str(tmp_path / "out")) == metrics
    found = read_run_id(str(tmp_path / "out"))
    record = MlflowClient(found.uri).get_run(found.run_id)
    assert (record.info.status, record.data.params) == ("FINISHED", {"setting": "1"})


def test_a_finished_step_is_not_done_again(tmp_path, capsys):
    _, first = run(tmp_path)
    command, again = run(tmp_path)
    assert (again, command.claims, command.worked) == (first, [], 0)
    assert f"already done: {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [RESULT, PRODUCT])
def test_a_step_without_its_result_or_its_product_goes_on_in_its_run(tmp_path, missing):
    run(tmp_path)
    before = read_run_id(str(tmp_path))
    (tmp_path / missing).unlink()
    command, _ = run(tmp_path)
    assert (command.claims, command.worked) == ([IDENTITY], 1)
    assert read_run_id(str(tmp_path)) == before


def test_a_step_without_a_product_goes_on_whenever_it_is_given(tmp_path):
    run(tmp_path, product=None)
    command, _ = run(tmp_path, product=None)
    assert command.worked == 1


@pytest.mark.parametrize(
    ("identity", "key"),
    [({**IDENTITY, "seed": 4}, "seed"), ({**IDENTITY, "model": {"name": "large"}}, "model.name")],
)
def test_a_folder_of_something_else_is_refused_by_name(tmp_path, identity, key):
    run(tmp_path)
    with pytest.raises(UserError, match=rf"is of another {key} \("):
        run(tmp_path, identity=identity)
    assert json.loads((tmp_path / "claim.json").read_text()) == IDENTITY


@pytest.mark.parametrize("old", ["faces/", "./faces", "file://{}/faces", "runs/../faces"])
def test_a_path_that_an_earlier_version_claimed_as_it_was_spelled_is_the_same(
    tmp_path, monkeypatch, old
):
    monkeypatch.chdir(tmp_path)
    theirs = {"data": {"shards": old.format(tmp_path), "images": None}}
    ours = {"data": {"shards": f"{tmp_path}/faces", "images": None}}
    run(tmp_path / "run", identity=theirs)
    paths = ("data.shards", "data.images")
    assert run(tmp_path / "run", identity=ours, paths=paths)[0].claims == []
    for other in ({"shards": f"{tmp_path}/others"}, {"images": f"{tmp_path}/faces"}):
        with pytest.raises(UserError, match=r"is of another data\."):
            run(tmp_path / "run", identity={"data": {**ours["data"], **other}}, paths=paths)


def test_what_is_not_chosen_yet_is_whatever_the_folder_has(tmp_path):
    run(tmp_path)
    assert run(tmp_path, identity={"model": IDENTITY["model"]})[0].claims == []


def test_a_setting_that_the_folders_version_had_not_was_its_default(tmp_path):
    run(tmp_path)
    newer = {**IDENTITY, "new": {"setting": "off"}}
    assert run(tmp_path, identity=newer, defaults=newer)[0].claims == []
    with pytest.raises(UserError, match=r"another new\.setting \(off there, on here\)"):
        run(tmp_path, identity={**IDENTITY, "new": {"setting": "on"}}, defaults=newer)


def test_a_reusable_folder_takes_another_identity_and_another_run(tmp_path):
    run(tmp_path, is_reusable=True)
    first = read_run_id(str(tmp_path))
    other = {**IDENTITY, "seed": 4}
    command, _ = run(tmp_path, identity=other, is_reusable=True)
    assert (command.claims, command.worked) == ([{}], 1)
    assert read_run_id(str(tmp_path)) != first
    assert run(tmp_path, identity=other, is_reusable=True)[0].worked == 0


def test_a_reused_folder_holds_no_result_until_it_has_its_own(tmp_path):
    run(tmp_path, is_reusable=True)
    other = Command(tmp_path, {**IDENTITY, "seed": 4})
    with pytest.raises(RuntimeError, match="in the work"):
        run_step(
            step(tmp_path, identity=other.identity, is_reusable=True),
            lambda claimed: other.prepare(claimed)._replace(run=other.fail),
        )
    assert not (tmp_path / RESULT).exists()


def test_a_number_that_may_grow_goes_on_after_its_end_and_never_shrinks(tmp_path):
    grown = {**IDENTITY, "seed": 4}
    run(tmp_path, growing=["seed"])
    before = read_run_id(str(tmp_path))
    command, _ = run(tmp_path, identity=grown, growing=["seed"])
    assert (command.claims, command.worked) == ([IDENTITY], 1)
    assert read_run_id(str(tmp_path)) == before
    assert json.loads((tmp_path / "claim.json").read_text()) == grown
    assert run(tmp_path, identity=grown, growing=["seed"])[0].worked == 0
    with pytest.raises(UserError, match=r"another seed \(4 there, 3 here\); repeat"):
        run(tmp_path, growing=["seed"], remedies={"seed": "repeat"})


def test_a_folder_that_grows_holds_no_result_until_it_has_its_own(tmp_path):
    run(tmp_path, growing=["seed"])
    more = Command(tmp_path, {**IDENTITY, "seed": 4})
    longer = step(tmp_path, identity=more.identity, growing=["seed"])
    with pytest.raises(RuntimeError, match="in the work"):
        run_step(longer, lambda claimed: more.prepare(claimed)._replace(run=more.fail))
    assert not (tmp_path / RESULT).exists()
    run_step(longer, more.prepare)
    assert (more.claims, more.worked) == ([IDENTITY, more.identity], 1)


def test_what_preparing_finds_wrong_leaves_the_folder_unclaimed(tmp_path):
    def prepare(claimed):
        raise UserError("no such source")

    with pytest.raises(UserError, match="no such source"):
        run_step(step(tmp_path), prepare)
    assert not (tmp_path / "claim.json").exists()


@pytest.mark.parametrize("name", ["product.txt", "result.json", "parts/7.txt"])
def test_files_of_another_program_are_not_replaced(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="is not of this program, which would replace it"):
        run(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_reusable_step_takes_no_folder_of_another_command(tmp_path):
    """Neither its result nor the name of its run."""
    (tmp_path / RESULT).write_text('{"theirs": 1.0}')
    (tmp_path / "run.json").write_text('{"uri": "sqlite:///x.db", "run_id": "theirs", "work": ""}')
    with pytest.raises(UserError, match="is not of this program, which would replace it"):
        run(tmp_path, is_reusable=True)
    assert json.loads((tmp_path / RESULT).read_text()) == {"theirs": 1.0}
    assert "theirs" in (tmp_path / "run.json").read_text()


def test_a_reusable_folder_of_a_version_without_claims_is_used_again(tmp_path):
    run(tmp_path, is_reusable=True)
    (tmp_path / "claim.json").unlink()
    command, _ = run(tmp_path, is_reusable=True)
    assert (command.claims, command.worked) == ([{}], 1)


def test_one_driver_at_a_time(tmp_path):
    with run_lock(str(tmp_path), "facevae other"), pytest.raises(UserError, match="facevae other"):
        run(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"a": "b"}'])
def test_a_result_that_is_none_is_said_so(tmp_path, content):
    (tmp_path / RESULT).write_text(content)
    with pytest.raises(UserError, match=r"is not the result\.json of a command"):
        read_result(str(tmp_path))


MISSING = {"auc/a": math.nan, "auc/b": math.inf, "images": 3.0, "auc/c": -math.inf, "auc/d": 0.5}


def test_what_is_not_finite_is_null_in_the_result_and_comes_back_as_nan(tmp_path):
    write_result(str(tmp_path), MISSING)
    text = (tmp_path / RESULT).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        **dict.fromkeys(("auc/a", "auc/b", "auc/c")),
        **{"images": 3.0, "auc/d": 0.5},
    }
    found = read_result(str(tmp_path))
    assert {name for name, value in found.items() if math.isnan(value)} == {
        *("auc/a", "auc/b", "auc/c")
    }


def test_a_result_of_a_version_that_wrote_nan_is_read(tmp_path):
    (tmp_path / RESULT).write_text('{"auc/a": NaN, "n": 1}')
    assert math.isnan(read_result(str(tmp_path))["auc/a"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"auc/a": math.nan, "n": 1.0}, "auc/a"),
        (dict.fromkeys("abc", math.nan), "a, b, c"),
        (dict.fromkeys("abcde", math.nan), "a, b, c and 2 more"),
    ],
)
def test_a_metric_without_a_value_has_a_line_that_says_why_each_time(
    tmp_path, capsys, monkeypatch, values, named
):
    work = Command.work

    def work_without_values(self, run):
        work(self, run)
        return values

    monkeypatch.setattr(Command, "work", work_without_values)
    for _ in range(2):
        _, metrics = run(tmp_path, why_missing="no images")
        assert metrics.keys() == values.keys()
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if "n/a" in line] == [f"try: n/a for {named}: no images"]


def test_where_all_have_values_nothing_is_said(tmp_path, capsys):
    run(tmp_path)
    assert "n/a" not in capsys.readouterr().err
