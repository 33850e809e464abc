import xml.etree.ElementTree as ET

from empo.reporting.figures import epitome_figure, iva_figure, nidf_figure, training_figure

LOG = [
    {"step": 1, "loss": 0.69, "rewards/margins": 0.0, "rewards/accuracies": 0.0},
    {"step": 2, "loss": 0.6, "rewards/margins": 0.2, "rewards/accuracies": 0.7},
    {"step": 2, "eval_loss": 0.65, "eval_rewards/margins": 0.1, "eval_rewards/accuracies": 0.6},
    {"step": 2, "train_runtime": 3.0},
]


def axes_of(path):
    """Number of axes in an SVG file."""
    ids = [element.get("id", "") for element in ET.parse(path).iter()]
    return sum(name.startswith("axes_") for name in ids)


def test_same_results_same_bytes_and_no_date(results, tmp_path):
    for draw in (nidf_figure, iva_figure):
        for name in ("a.svg", "b.svg"):
            draw(results["systems"], tmp_path / name)
        first = (tmp_path / "a.svg").read_bytes()
        assert first == (tmp_path / "b.svg").read_bytes()
        assert b"<dc:date>" not in first


def test_panels(results, tmp_path):
    nidf_figure(results["systems"], tmp_path / "nidf.svg")
    iva_figure(results["systems"], tmp_path / "iva.svg")
    assert axes_of(tmp_path / "nidf.svg") == 1
    assert axes_of(tmp_path / "iva.svg") == 3


def test_levels_of_every_system_are_stacked_to_one(rated, tmp_path):
    for name in ("a.svg", "b.svg"):
        epitome_figure({"$x^{": rated["systems"]["one"], **rated["systems"]}, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert axes_of(tmp_path / "a.svg") == 3
    text = (tmp_path / "a.svg").read_text("utf-8")
    # a bar per system, mechanism and level; 3 more squares in the legend
    assert [text.count(f"fill: {colour}") for colour in ("#dddddd", "#56b4e9", "#0072b2")] == (
        [4 * 3 + 1] * 3
    )


def test_training_has_a_panel_for_what_was_logged(tmp_path):
    training_figure(LOG, tmp_path / "dpo.svg")
    training_figure([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], tmp_path / "sft.svg")
    assert axes_of(tmp_path / "dpo.svg") == 3
    assert axes_of(tmp_path / "sft.svg") == 1


def test_png(tmp_path):
    training_figure(LOG, tmp_path / "dpo.png")
    assert (tmp_path / "dpo.png").read_bytes().startswith(b"\x89PNG")


def test_a_name_is_never_a_formula(results, tmp_path):
    nidf_figure(
        {"a$b": results["systems"]["one"], "$x^{": results["systems"]["two"]}, tmp_path / "n.svg"
    )
    assert (tmp_path / "n.svg").is_file()
