"""Linear and nearest-neighbour probes: what frozen features tell about classes they may never have seen."""
