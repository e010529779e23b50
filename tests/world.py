"""The rehearsal's worlds, under the name that tests use."""

from ibkr_service.rehearsal.world import EPOCH, PORT, WIDE_LIMITS, StoryWorld, World, WorldConfig

__all__ = ["EPOCH", "PORT", "WIDE_LIMITS", "StoryWorld", "World", "WorldConfig"]
