"""What a definition's lines show next to a problem: never a secret, and the rest at its place."""

from __future__ import annotations

import pytest
from pgha.common.errors import DefinitionError, Problem
from pgha.master.cli.masking import cover, moved, secret_spans
from pgha.master.cli.screen import Look, render_problems
from pgha.master.definition import inventory

HEAD = "schema: pgha/v1\ncluster: prod\n"
SECRETS = ("hunter2", "geheim", "Tops3cret", "AKIAxyz")


def shown(text: str) -> str:
    with pytest.raises(DefinitionError) as caught:
        inventory.load("prod.yml", text)
    return "\n".join(render_problems("prod.yml", text, caught.value.problems, Look(width=200)))


def test_each_secret_of_a_line_is_masked_at_its_own_place() -> None:
    output = shown(HEAD + "patroni: {superuser_password: hunter2, password: geheim} # end\n")
    line = "   3 | patroni: {superuser_password: ********, password: ********} # end"
    assert output.count(line) == output.count("   3 | ") == 4  # two unknown keys and two secrets
    assert f"\n     | {' ' * (line.rindex('*' * 8) - 7)}^^^^^^^^  use" in output
    assert f"\n     | {' ' * (line.index(' password') + 1 - 7)}^^^^^^^^  " in output  # the key has moved with its line


@pytest.mark.parametrize(
    "text",
    [
        "backup: {credentials: {key: AKIAxyz0123456789012345678901234567890, secret: Tops3cretValueXYZ}}",
        "a: {password: hunter2, b_secret: geheim, pass: Tops3cret, passphrase: AKIAxyz, c: 1}",
        "a_password: |\n  hunter2\n  geheim\nx: 1",
        'a: {password: "hunter2\n  geheim", x: 1, secret: Tops3cret}',
        "a: {password: hunter2\n  geheim, x: 1}",
        "description: &x hunter2\npassword: *x\nsecret: *x",
        "a: &x {password: hunter2}\nb: *x\nc: {<<: *x, secret: geheim}",
        "password: [hunter2, geheim]",
        "password: {a: {b: hunter2}, c: geheim}",
        "backup: {credentials: {key: {a: AKIAxyz}}}",
        "postgresql: {parameters: {x: 'password=hunter2', y: 'password=geheim'}}",
        "a: \ufeff1\npasswor: \ufeff\npassword: \ufeffhunter2",
    ],
)
def test_no_secret_of_a_file_that_can_be_read_is_shown(text: str) -> None:
    output = shown(HEAD + text + "\n")
    assert "C040" in output
    assert not [secret for secret in SECRETS if secret in output]
    assert not [secret for secret in SECRETS if secret[2:] in output]


@pytest.mark.parametrize(
    "text",
    [
        "a: {superuser_password: hunter2, password: geheim",
        "password: hunter2\npassword: geheim",
        "password: hunter2: geheim",
        "password: *hunter2",
        "password: !hunter2",
        "password: !hunter2!geheim",
        "password: 'hunter2\ngeheim\nx: y",
        "password: |\n  hunter2\n\tgeheim: x: y",
        "credentials:\n  key: AKIAxyz\n  key: geheim",
        "credentials: {key: AKIAxyz,\nkey: geheim}",
        "dsn: 'host=x password=hunter2'\ndsn: 'password = geheim'",
        '"password" : hunter2\n"password" : geheim',
    ],
)
def test_no_secret_of_a_file_that_cannot_be_read_is_shown(text: str) -> None:
    output = shown(HEAD + text + "\n")
    assert "C040" not in output
    assert not [secret for secret in SECRETS if secret in output]


@pytest.mark.parametrize("schema", ["", "schema: pgha/v9, "])
def test_no_secret_is_shown_while_the_schema_is_wrong(schema: str) -> None:
    output = shown(f"{{{schema}password: hunter2, secret: geheim}}\n")
    assert not [secret for secret in SECRETS if secret in output]


def test_what_is_no_secret_stays_readable_in_a_file_that_cannot_be_read() -> None:
    output = shown(HEAD + "postgresql: {password_encryption: scram-sha-256, version: 17\n")
    assert "********" not in output


def test_a_place_behind_a_mask_moves_with_it() -> None:
    assert cover("a: xx, b: 1", [(3, 5)]) == "a: ********, b: 1"
    assert moved(8, 1, [(3, 5)]) == (14, 1)
    assert moved(4, 2, [(3, 5)]) == (4, 8)
    assert moved(1, 1, [(3, 5)]) == (1, 1)


def test_secrets_that_overlap_are_one_mask() -> None:
    found = [Problem("C040", "x", 1, 4, 3), Problem("C040", "x", 1, 4, 3), Problem("C040", "x", 1, 6, 3)]
    assert secret_spans(["a: xxxxxx"], found) == {1: [(3, 8)]}
