"""Speed, memory, fidelity, faithfulness, peers; every result row says machine, versions, precision, masks, seed and commit.

python -m benchmarks.networks                    train or fetch the networks
python -m benchmarks.truth                       maps that fidelity is measured against; optional, takes no clock
pytest benchmarks --benchmark-only --record      the suites
python -m benchmarks.report                      docs/benchmarks.md
python -m benchmarks.ratios                      CI's check of the smoke size
"""
