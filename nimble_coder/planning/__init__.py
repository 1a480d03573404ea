"""How many pods a load needs: a simulation from what one pod was measured to do."""
