"""All models of the bench, for whoever lists or runs them."""

from __future__ import annotations

from pathlib import Path

import faults_build
import faults_layers
import faults_sequences
import faults_states
import faults_training
import faults_trajectories
import faults_updates
import sound_layers
import sound_numbers
import sound_points
import sound_training
from planting import Fault, Faults, Sound, SoundModels

__all__ = ["FAULTS", "SOUND", "address"]

FAULTS: dict[str, Faults] = {
    "faults_build": faults_build.FAULTS,
    "faults_layers": faults_layers.FAULTS,
    "faults_sequences": faults_sequences.FAULTS,
    "faults_training": faults_training.FAULTS,
    "faults_updates": faults_updates.FAULTS,
    "faults_states": faults_states.FAULTS,
    "faults_trajectories": faults_trajectories.FAULTS,
}
"""By the stem of their file."""
SOUND: dict[str, SoundModels] = {
    "sound_numbers": sound_numbers.MODELS,
    "sound_points": sound_points.MODELS,
    "sound_layers": sound_layers.MODELS,
    "sound_training": sound_training.MODELS,
}


def address(file: str, model: Fault | Sound, backend: str) -> str:
    """Returns the target that plants a fault, or another way to do the same, on a backend."""
    on = "" if isinstance(model, Sound) and not model.planted else f"_on_{backend}"
    return f"{Path(__file__).with_name(file)}.py:{model.name}{on}"
