"""All models of the bench, to list or to run."""

from __future__ import annotations

from pathlib import Path

import faults_blocks
import faults_build
import faults_dtypes
import faults_kept
import faults_layers
import faults_lost
import faults_native
import faults_sequences
import faults_states
import faults_steps
import faults_training
import faults_trajectories
import faults_updates
import sound_dtypes
import sound_float32
import sound_kept
import sound_layers
import sound_losses
import sound_numbers
import sound_places
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
    "faults_kept": faults_kept.FAULTS,
    "faults_blocks": faults_blocks.FAULTS,
    "faults_dtypes": faults_dtypes.FAULTS,
    "faults_steps": faults_steps.FAULTS,
    "faults_lost": faults_lost.FAULTS,
    "faults_native": faults_native.FAULTS,
}
"""By the stem of their file."""
SOUND: dict[str, SoundModels] = {
    "sound_numbers": sound_numbers.MODELS,
    "sound_points": sound_points.MODELS,
    "sound_layers": sound_layers.MODELS,
    "sound_training": sound_training.MODELS,
    "sound_kept": sound_kept.MODELS,
    "sound_float32": sound_float32.MODELS,
    "sound_dtypes": sound_dtypes.MODELS,
    "sound_places": sound_places.MODELS,
    "sound_losses": sound_losses.MODELS,
}


def address(file: str, model: Fault | Sound, backend: str) -> str:
    """Returns the target that plants a fault on a backend, or another way to compute the same."""
    on = f"_on_{backend}" if model.planted else ""
    return f"{Path(__file__).with_name(file)}.py:{model.name}{on}"
