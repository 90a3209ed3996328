"""Measures the same model on each backend: the whole of it, then each layer, the loss, the update, and steps."""

from __future__ import annotations

from typing import Any

from dlf.parity._answers import BuildAnswer, CallAnswer, Measured, TraceAnswer
from dlf.parity._asking.requests import Requests, TruthLostError
from dlf.parity._asking.training import fits_of, train
from dlf.parity._judging.context import before_any_difference, choose_truth, note_data, note_origins
from dlf.parity._judging.measure import is_apart, measure_calls, measure_training, measure_whole
from dlf.parity._judging.measurement import Measurement
from dlf.parity._judging.verdict import Thresholds, is_suspect, judge_each
from dlf.parity._records import Records
from dlf.parity.evidence import is_frozen
from dlf.utils.errors import BackendError

__all__ = ["Measuring", "nothing_measured"]


class Measuring:
    """The measurements of one comparison. What one part finds out, the parts after it are asked by.

    Args:
        requests: The requests to the backends, which have built the same model.
        thresholds: Those of the verdict: what they suspect is looked into.

    Attributes:
        calls: The calls of layers that all backends have in common.
    """

    def __init__(self, requests: Requests, thresholds: Thresholds) -> None:
        self.calls: list[CallAnswer] = []
        self._requests, self._thresholds = requests, thresholds
        self._stages = set(requests.options.stages)
        self._traced: dict[str, TraceAnswer] = {}
        self._truth = ""

    def measured(self) -> Measured:
        """Measures all parts that the stages ask for.

        Raises:
            TruthLostError: The backend whose numbers the others were given has failed.
        """
        self._share_values()
        uneven = self._trace()
        whole = self._measure_whole()
        measurements = [*self._measure_layers(whole), *whole]
        given_up = self._leave_out_where_the_loss_fails()
        curves = None
        if not given_up:
            measurements += self._measure_training()
            steps, curves, failing = self._measure_trajectory(measurements)
            measurements += steps
            given_up = {"trajectory": failing} if failing else {}
        fits: dict[str, Any] = {}
        if curves or ("trajectory" in self._stages and is_frozen(self._built(self._truth))):
            fits, ended = fits_of(self._requests, self._traced)
            given_up |= {"trajectory": ended} if ended else {}
        return {
            "measurements": [each for each in measurements if each["stage"] in self._stages],
            "trajectory": curves,
            "given_up": given_up,
            "called_unevenly": uneven,
            "fits": fits,
        }

    @property
    def _alive(self) -> list[str]:
        return self._requests.alive(self._traced)

    @property
    def _takes_gradients(self) -> bool:
        # For the trajectory too: the gradients show which of them are only roundoff, and the update how far these go.
        asked = self._stages & {"loss", "gradient", "update", "trajectory"}
        return bool(asked) and next(iter(self._requests.built.values()))["trained_by"] != "nothing"

    def _built(self, name: str) -> BuildAnswer:
        return self._requests.built[name]

    def _share_values(self) -> None:
        requests = self._requests
        leader, file = requests.alive(requests.built)[0], requests.file("values.npz")
        requests.ask({"do": "save_values", "file": file}, [leader])
        requests.ask({"do": "load_values", "file": file}, requests.built)

    def _trace(self) -> list[str]:
        """Runs the whole model, and chooses the truth.

        Returns:
            The layers that are not called as often everywhere. Where a backend unrolls a loop, a layer inside is called
            more often: only the layer around it is judged.
        """
        requests = self._requests
        request = {"do": "trace", "gradients": self._takes_gradients}
        self._traced = requests.ask(request, requests.built, to="trace")
        self._truth = requests.truth = choose_truth(self._traced, requests.records("trace"))
        self._share_calls()
        keys = [{call["key"] for call in each["calls"]} for each in self._traced.values()]
        everywhere = set.intersection(*keys)
        self.calls = [call for call in self._traced[self._truth]["calls"] if call["key"] in everywhere]
        uneven = [
            call["layer"] for each in self._traced.values() for call in each["calls"] if call["key"] not in everywhere
        ]
        return list(dict.fromkeys(uneven))

    def _share_calls(self) -> None:
        """Lets backends on which the model's own step does not come through replay the layers that it calls elsewhere.

        Each is replayed from the truth's numbers, and so need not be called there by the model.
        """
        lacking = [name for name, each in self._traced.items() if not each["step_heard"]]
        if not lacking or not self._traced[self._truth]["step_heard"]:
            return
        file = self._requests.file("calls.pickle")
        self._requests.ask({"do": "save_calls", "file": file}, [self._truth])
        for name, answer in self._requests.ask({"do": "load_calls", "file": file}, lacking).items():
            self._traced[name]["calls"] = answer["calls"]

    def _measure_whole(self) -> list[Measurement]:
        """Measures what the whole model gives; where that differs, also from slightly moved inputs."""
        requests, dtype = self._requests, self._built(self._truth)["dtype"]
        whole = measure_whole(requests.records("trace"), self._truth, self.calls, dtype)
        if not any(each["stage"] == "forward" and is_apart(each) for each in whole):
            return whole
        requests.ask({"do": "trace_beside"}, self._traced, to="trace_beside")
        beside = requests.records("trace_beside")
        return measure_whole(requests.records("trace"), self._truth, self.calls, dtype, beside)

    def _measure_layers(self, whole: list[Measurement]) -> list[Measurement]:
        """Measures each layer; those that differ are measured again, also from slightly moved inputs."""
        if not self._stages & {"forward", "gradient", "state"}:
            return []
        requests = self._requests
        measurements = self._replay("replay", self.calls)
        found = [each for one in measurements for each in judge_each(one, self._alive, self._thresholds)]
        suspects = {each.layer for each in found if is_suspect(each)} | before_any_difference(whole, self.calls)
        again = [call for call in self.calls if call["layer"] in suspects]
        if again:
            looked_into = self._replay("beside", again)
            keys, order = {call["key"] for call in again}, {call["key"]: n for n, call in enumerate(self.calls)}
            measurements = sorted(
                [each for each in measurements if each["call"] not in keys] + looked_into,
                key=lambda each: order[str(each["call"])],
            )
        note_origins(measurements, Records(requests.at("trace", self._truth)), self.calls)
        note_data(measurements, list(requests.built.values()), self.calls)
        return measurements

    def _replay(self, what: str, calls: list[CallAnswer]) -> list[Measurement]:
        """Measures layers, each called by itself from the truth's numbers, or from slightly moved ones ("beside")."""
        requests = self._requests
        request = {
            "truth": str(requests.at("trace", self._truth)),
            "keys": [call["key"] for call in calls],
            "gradients": self._takes_gradients,
        }
        if what == "replay":
            requests.ask({"do": "replay", **request}, self._traced, to=what, leader=self._truth)
            return measure_calls(requests.records(what), self._truth, calls)
        requests.ask({"do": "replay_beside", **request}, self._traced, to=what)
        return measure_calls(requests.records("replay"), self._truth, calls, requests.records(what))

    def _leave_out_where_the_loss_fails(self) -> dict[str, dict[str, str]]:
        """Takes backends for failed on which the loss fails, after their layers have been measured.

        Returns:
            The errors, by stage, if too few backends are left for a comparison.
        """
        requests, fails = self._requests, {name: self._traced[name]["loss_fails"] for name in self._alive}
        errors = {name: BackendError(text) for name, text in fails.items() if text}
        requests.failed |= errors
        requests.ask_keras(errors)
        left = {name: str(requests.failed[name]) for name in errors}
        stages = [each for each in ("loss", "update", "trajectory") if each in self._stages]
        return {} if requests.has_enough() else dict.fromkeys(stages, left)

    def _measure_training(self) -> list[Measurement]:
        """Measures the loss from the truth's predictions, and the update from its gradients."""
        requests, built = self._requests, self._built(self._truth)
        if not self._takes_gradients or built["trained_by"] == "train_step":
            return []
        stages = self._stages | ({"update"} if "trajectory" in self._stages else set())
        request = {
            "do": "replay_training",
            "truth": str(requests.at("trace", self._truth)),
            "stages": list(stages),
        }
        requests.ask(request, self._traced, to="training", leader=self._truth)
        dtypes = {each["path"]: each["dtype"] for each in built["variables"]}
        own = self._traced[self._truth]["own_dtype_variables"]
        return measure_training(requests.records("training"), self._truth, dtypes, built["dtype"], own)

    def _measure_trajectory(self, measured: list[Measurement]) -> tuple[list[Measurement], Any, dict[str, str]]:
        """Measures steps of training.

        Returns:
            The measurements, the curves, and the errors of backends that do not come through it.
        """
        requests, before = self._requests, dict(self._requests.failed)
        if "trajectory" not in self._stages or not all(self._built(name)["compiled"] for name in self._alive):
            return [], None, {}
        try:
            return *train(requests, self._thresholds, self._traced, measured), {}
        except (BackendError, TruthLostError):
            # What was measured before is kept.
            requests.ask_keras({name: each for name, each in requests.failed.items() if name not in before})
            given_up = {name: str(error) for name, error in requests.failed.items() if name not in before}
            if not self._alive:
                # Where no backend can train the model, that is not the failure of one backend.
                requests.failed = before
            return [], None, given_up


def nothing_measured() -> Measured:
    """Of models that are not the same, or of which only the build is asked for."""
    return {"measurements": [], "trajectory": None, "given_up": {}, "called_unevenly": [], "fits": {}}
