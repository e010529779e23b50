"""Strategies that ship: the smallest one, one that trades, one that watches the link. Copy one and go on from there."""
