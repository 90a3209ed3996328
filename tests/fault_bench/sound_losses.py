from planting import SoundModels
MODELS = SoundModels()
