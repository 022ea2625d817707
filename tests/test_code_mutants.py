"""What `python -m tests.code_mutants` breaks, and which of it is judged to change nothing."""

import ast
import json

from code_mutants import JUDGED, ROOT, TESTS, mutants


def test_what_is_judged_the_same_is_a_mutant_of_the_code_as_it_is() -> None:
    """Otherwise a judgement could outlive the code that it is about."""
    names = {mutant.name for room in TESTS for file in (ROOT / room).rglob("*.py") for mutant in mutants(file)}
    judged = json.loads(JUDGED.read_text(encoding="utf-8"))
    assert not judged.keys() - names
    assert all(judged.values())


def test_every_mutant_is_a_program_that_differs_in_one_place() -> None:
    for room in TESTS:
        for file in sorted((ROOT / room).rglob("*.py"))[:4]:
            right = file.read_bytes()
            for mutant in mutants(file):
                changed = right[: mutant.begin] + mutant.instead.encode() + right[mutant.end :]
                assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(right)), mutant.name


def test_the_judges_of_a_room_are_files_of_tests() -> None:
    for names in TESTS.values():
        assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in names)
