"""Programs over the engine's C++ sources, for the tests."""
