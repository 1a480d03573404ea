"""What is foreseen from what was measured: how many pods a load needs, and how fast a way to draft is."""
