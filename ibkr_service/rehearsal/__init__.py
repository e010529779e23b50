"""Rehearsals: the whole service and the simulated gateway under one virtual clock."""
