"""The names under which operators' own scripts import parts of Weaver; see `docs/api/events.md`."""
