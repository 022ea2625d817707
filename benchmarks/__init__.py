"""Speed, memory, fidelity, faithfulness and peers. Every row of results names machine, versions, precision, masks, seed
and commit.

python -m benchmarks.networks                    train or fetch the networks
python -m benchmarks.truth                       make the maps that fidelity is measured against (optional)
pytest benchmarks --benchmark-only --record      run the suites
python -m benchmarks.report                      write docs/benchmarks.md
python -m benchmarks.ratios                      check the ratios of a smoke run, as CI does
"""
