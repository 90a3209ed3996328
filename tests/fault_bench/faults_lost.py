from planting import Faults
FAULTS = Faults()
