"""The command `hnbayes`: sample, diagnose, predict, report."""
