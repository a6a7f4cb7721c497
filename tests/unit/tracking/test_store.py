"""Which store: one spelling for each, any legal path, and one line for what is no address."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy.engine import make_url

from facevae.config import TrackingConfig
from facevae.errors import UserError
from facevae.runs import storage
from facevae.tracking import read_run_id, start_run, store_uri
from facevae.tracking.store import RunId, absolute_store, sqlite_path, sqlite_uri

NAMES = ["my%20faces", "100%", "who?", "a::b", "a#b", "a;b", "a&b=c", "[x]*", "a b", "a+b", "ü"]
VARIABLE = "MLFLOW_TRACKING_URI"


@pytest.mark.parametrize("name", NAMES)
def test_any_folder_may_hold_the_default_store(tmp_path, name):
    file = str(tmp_path / name / "run" / "mlflow.db")
    uri = store_uri(TrackingConfig(), str(tmp_path / name / "run"))
    assert make_url(uri).database == file  # what SQLAlchemy opens
    assert (sqlite_path(uri), absolute_store(uri)) == (file, uri)
    made = Path(uri.removeprefix("sqlite:///")).parent  # by MLflow, undecoded
    assert file.startswith(f"{made}/")


@pytest.mark.parametrize("name", ["my%20faces", "who?"])
def test_a_run_in_a_folder_of_any_name_leaves_nothing_beside_it(tmp_path, name):
    output = tmp_path / name / "run"
    with start_run(TrackingConfig(system_metrics=False), "try", str(output), {"a": 1}) as run:
        run.json("faces.json", [1])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in output.iterdir()) == [
        "mlartifacts",
        "mlflow.db",
        "run.json",
    ]
    assert len([*(output / "mlartifacts").rglob("faces.json")]) == 1
    found = read_run_id(str(output))
    listed = MlflowClient(found.uri).list_artifacts(found.run_id)
    assert sorted(each.path for each in listed) == ["config.json", "faces.json"]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("sqlite:///runs/mlflow.db", "runs/mlflow.db"),
        ("sqlite:///./runs/../mlflow.db", "mlflow.db"),
        ("sqlite:///{}/x/mlflow.db", "x/mlflow.db"),
        ("sqlite:///{}//x/./mlflow.db", "x/mlflow.db"),
        ("sqlite:///my%2520faces/mlflow.db", "my%20faces/mlflow.db"),
        (" sqlite:///mlflow.db\n", "mlflow.db"),  # of a file that a shell read
    ],
)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_relative_sqlite_store_is_made_absolute(tmp_path, monkeypatch, by, given, place):
    monkeypatch.chdir(tmp_path)
    uri = store_of(given.format(tmp_path), by, monkeypatch)
    assert uri == sqlite_uri(str(tmp_path / place))
    monkeypatch.chdir("/")
    assert absolute_store(uri) == uri


def test_options_of_an_sqlite_store_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = store_of("sqlite:///a.db?timeout=9", "option", monkeypatch)
    assert uri == f"sqlite:///{tmp_path}/a.db?timeout=9"
    assert sqlite_path(uri) == f"{tmp_path}/a.db"


@pytest.mark.parametrize(
    "given",
    [
        "./mlruns",
        "mlruns/",
        "{}/mlruns",
        "file:mlruns",
        "file:./mlruns",
        "file://{}/mlruns",
        "file:{}/mlruns",
    ],
)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_relative_folder_as_a_store_is_made_absolute(tmp_path, monkeypatch, by, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert store_of(given.format(tmp_path), by, monkeypatch) == f"file://{tmp_path}/mlruns"


def test_a_folder_as_a_store_is_one_line_where_mlflow_takes_none(monkeypatch):
    with pytest.raises(UserError, match="only with MLFLOW_ALLOW_FILE_STORE=true: expected http://"):
        store_of("./mlruns", "variable", monkeypatch)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ("http://server:5000/", "http://server:5000"),
        ("https://me:secret@server/mlflow", "https://me:secret@server/mlflow"),
        ("postgresql://me@db/mlflow?sslmode=require", "postgresql://me@db/mlflow?sslmode=require"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_other_stores_stay_what_they_are(monkeypatch, given, same):
    assert store_of(given, "variable", monkeypatch) == same


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("127.0.0.1:5999", "write http://127.0.0.1:5999"),
        ("localhost:5000", "write http://localhost:5000"),
        ("mlflow.example.com:443/prefix", "write http://mlflow.example.com:443/prefix"),
        ("[::1]:5000", r"write http://\[::1\]:5000"),
        ("http://h:5000/#/experiments/1", "a page in a browser: write http://h:5000, the server's"),
        ("https://h/mlflow/#/experiments/1?x=2", "write https://h/mlflow, the"),
        ("http://h:5000/?workspace=a", "write http://h:5000, the"),
        ("http://h:5000#", "write http://h:5000, the"),
        ("http:/h:5000", "names no host and port: expected http://HOST:5000"),
        ("http://", "names no host and port: expected http://HOST:5000"),
        ("http://h:port", "names no host and port: expected http://HOST:5000"),
        ("mlflow.example.com", "names a folder.*expected http://HOST:5000"),
        ("sqlite://mlflow.db", "write sqlite:////folder/mlflow.db"),
        ("sqlite:mlflow.db", "write sqlite:////folder/mlflow.db"),
    ],
)
@pytest.mark.parametrize(("by", "name"), [("option", "--tracking.uri"), ("variable", VARIABLE)])
def test_what_is_no_address_is_one_line_that_shows_one(monkeypatch, by, name, given, remedy):
    with pytest.raises(UserError, match=rf"^{name} .*{remedy}"):
        store_of(given, by, monkeypatch)


def test_a_run_goes_on_whose_store_was_spelled_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/store.db", system_metrics=False)
    for spelling in (None, f"sqlite:///{tmp_path}/x/../store.db", "sqlite:///store.db"):
        file = tmp_path / "out" / "run.json"
        if spelling is not None:
            storage.write_json(str(file), storage.read_json(str(file)) | {"uri": spelling})
        with start_run(tracking, "try", str(tmp_path / "out"), {"a": 1}) as run:
            first = run.id.run_id if spelling is None else first
            assert run.id.run_id == first


def test_the_store_of_a_model_is_joined_if_it_is_there(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    run = RunId(f"sqlite:///{tmp_path}/a/../b/mlflow.db", "1")
    assert store_uri(TrackingConfig(), "/out", run) == "sqlite:////out/mlflow.db"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mlflow.db").touch()
    assert store_uri(TrackingConfig(), "/out", run) == f"sqlite:///{tmp_path}/b/mlflow.db"


def store_of(given: str, by: str, monkeypatch) -> str:
    """The store that is given with an option or with the variable."""
    if by == "option":
        return store_uri(TrackingConfig(uri=given), "/out")
    monkeypatch.setenv(VARIABLE, given)
    return store_uri(TrackingConfig(), "/out")
