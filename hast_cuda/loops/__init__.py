"""What every training loop needs, whatever it trains: precision, graphs, seeds, crops, guards."""
