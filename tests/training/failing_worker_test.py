"""
No worker waits for ever for one that has failed.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.training_runs import tagger_config, train

CONFIG = {
    **tagger_config(
        optimizer={
            "type": "moving_average",
            "optimizer": {"type": "adam", "lr": 0.02},
            "moving_average": {"decay": 0.9},
        },
        checkpointer={"type": "swapping", "save_every_num_batches": 2},
        # The callbacks of which all workers have to do with each other.
        callbacks=["random_state", {"type": "moving_average_buffers"}],
    ),
    "data_loader": {"batch_size": 2},
    "distributed": {"cuda_devices": [-1, -1]},
}


def test_training_ends_when_one_of_two_workers_fails(tmp_path: Path) -> None:
    def error(name: str, **failure: object) -> str:
        failing = {"type": "tests.support.failing_worker.FailingWorker", **failure}
        callbacks = [*CONFIG["trainer"]["callbacks"], failing]
        config = {**CONFIG, "trainer": {**CONFIG["trainer"], "callbacks": callbacks}}
        # A run that hangs is ended after some minutes, and then not with this return code.
        train(config, tmp_path / name, expected_returncode=1)
        return (tmp_path / name / "failed").read_text()

    with ThreadPoolExecutor(2) as executor:
        in_training = executor.submit(error, "in_training", rank=1)
        while_saving = executor.submit(error, "while_saving", rank=0, while_saving=True)
        assert in_training.result() == repr(ValueError("failed after the third batch"))
        assert while_saving.result() == repr(OSError("no space left"))
    assert (tmp_path / "in_training" / "model_state_e0_b2.th").exists()
    assert not list((tmp_path / "while_saving").glob("*_state_*.th*"))
