from facevae.benchmark import report
from facevae.benchmark.report import Made
from facevae.report import plots

MEASURED = {
    "training/dfc_vae/facenet/ours": [300.0, 310.0, 290.0],
    "training/dfc_vae/facenet/unoptimised": [30.0, 31.0, 29.0],
    "training/dfc_vae/facenet/times_unoptimised": [10.0, 10.0, 10.0],
    "attributes/growth": [10.1],
}


def test_watched_figures_have_short_names():
    found = report.medians(MEASURED)
    assert found["training/dfc_vae/facenet/ours"] == 300
    assert found["training/times_unoptimised"] == 10
    assert found["attributes/growth_200k_over_20k"] == 10.1
    assert "training/share_of_ceiling" not in found


def test_the_table_has_a_row_a_measurement():
    made = {"training/dfc_vae/facenet": Made("fp32", "a CPU")}
    lines = report.table(MEASURED, lines=["a machine"], made=made).splitlines()
    assert lines[0] == "a machine"
    assert lines[2] == "| measurement | median | range | rounds | precision | processor |"
    assert lines[4] == "| `training/dfc_vae/facenet/ours` | 300 | 290 to 310 | 3 | fp32 | a CPU |"
    assert lines[7] == "| `attributes/growth` | 10.1 | 10.1 to 10.1 | 1 |  |  |"
    assert len(lines) == 4 + len(MEASURED)


def test_the_table_shows_what_another_result_had():
    before = {"training/dfc_vae/facenet/ours": 200.0, "attributes/growth": 0.0}
    lines = report.table(MEASURED, before).splitlines()
    assert lines[1].endswith("| before | change | precision | processor |")
    assert lines[3].endswith("| 200 | +50.0% |  |  |")
    assert lines[4].endswith("|  |  |  |  |")
    assert lines[6].endswith("| 0 |  |  |  |")


def test_rates_are_drawn_a_panel_a_case():
    panels = report.rates(MEASURED)
    assert list(panels) == ["training/dfc_vae/facenet"]
    assert list(panels["training/dfc_vae/facenet"]) == ["unoptimised", "ours"]
    few = plots.rate_bars(panels)
    many = plots.rate_bars(panels | {"sharding": {"ours": (5.0, 4.0, 6.0)}})
    assert many.height > few.height
    assert plots.rate_bars({}).height < few.height
