"""Where settings come from, which source wins, and what happens to those that cannot be used."""

from pathlib import Path

import pytest

from build_engine.profiles import PROFILES, find_profile
from nimble_coder.environment import ALIASES, NO_EFFECT, env_names
from nimble_coder.settings.command_line import parse
from nimble_coder.settings.loading import SettingsError, load
from nimble_coder.settings.model import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("http_port: 4\ngrpc_port: 14\nworkers: 3\nserved_model_names: [a, b]\n")
    return path


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_profile(file: Path) -> None:
    environment = {"NIMBLE_HTTP_PORT": "2", "NIM_SERVER_PORT": "3", "NIM_GRPC_API_PORT": "13"}
    loaded = load({"http_port": "1"}, environment, file).for_profile(find_profile("demo"))
    s = loaded.settings
    assert (s.http_port, s.grpc_port, s.workers, s.names) == (1, 13, 3, ["a", "b"])
    assert (s.max_model_len, s.drain_seconds) == (8192, 30)
    assert loaded.origin("http_port") == "command line --http-port"
    assert loaded.origin("grpc_port") == "environment NIM_GRPC_API_PORT"
    assert loaded.origin("workers") == f"file {file}"
    assert loaded.origin("max_model_len") == "profile demo"
    assert loaded.origin("drain_seconds") == "default"
    assert load({}, environment).settings.http_port == 2
    assert load({}, {"NIMBLE_CONFIG": str(file)}).settings.http_port == 4


def test_nims_names_mean_what_they_mean_there() -> None:
    settings = load(
        {},
        {
            "NIM_CACHE_PATH": "/opt/nim/.cache",
            "NIM_MODEL_PROFILE": "demo",
            "NIM_MODEL_NAME": "qwen2.5-coder-7b-instruct",
            "NIM_SERVED_MODEL_NAME": "coder,qwen",
            "NIM_SERVER_PORT": "9000",
            "NIM_LOG_LEVEL": "WARNING",
            "NIM_JSONL_LOGGING": "1",
            "NIM_MAX_MODEL_LEN": "4096",
            "NIM_TENSOR_PARALLEL_SIZE": "2",
            "NIM_ENABLE_KV_CACHE_REUSE": "0",
            "NIM_KVCACHE_PERCENT": "0.5",
            "NIM_SSL_MODE": "MTLS",
            "NIM_SSL_CERTS_PATH": "/c",
            "NIM_SSL_KEY_PATH": "/k",
            "NIM_SSL_CA_CERTS_PATH": "/a",
            "NIM_DISABLE_MODEL_DOWNLOAD": "1",
        },
    ).settings
    assert settings.cache_path == Path("/opt/nim/.cache")
    assert (settings.chosen_profile, settings.model_name) == ("demo", "qwen2.5-coder-7b-instruct")
    assert settings.names == ["coder", "qwen"]
    assert (settings.http_port, settings.log_level, settings.jsonl_logging) == (9000, "warning", True)
    assert (settings.max_model_len, settings.tensor_parallel_size) == (4096, 2)
    assert (settings.kv_cache_reuse, settings.kv_cache_fraction) == (False, 0.5)
    assert (settings.tls_mode, settings.uses_tls) == ("mtls", True)
    assert settings.hf_hub_offline


def test_an_unknown_name_is_warned_about_with_the_nearest_one() -> None:
    warnings = load({}, {"NIM_SERVR_PORT": "1", "NIMBLE_WORKER": "2", "NIM_ZZZZ": "3", "OTHER": "4"}).warnings
    assert warnings == (
        "NIMBLE_WORKER is not a setting: did you mean NIMBLE_WORKERS?",
        "NIM_SERVR_PORT is not a setting: did you mean NIM_SERVER_PORT?",
        "NIM_ZZZZ is not a setting: docs/configuration.md lists all",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NIMBLE_PORT", "NIMBLE_HTTP_PORT or NIMBLE_GRPC_PORT or NIMBLE_METRICS_PORT?"),
        ("NIMBLE_PROT", "NIMBLE_HTTP_PORT or NIMBLE_GRPC_PORT or NIMBLE_METRICS_PORT?"),
        ("NIMBLE_KEYS_FILE", "NIMBLE_API_KEYS_FILE?"),
        ("NIM_WORKERS", "NIMBLE_WORKERS?"),
        ("NIMBLE_MODEL", "NIMBLE_MODEL_PROFILE or NIMBLE_MODEL_NAME or NIMBLE_MODEL_REVISION?"),
    ],
)
def test_a_part_of_a_name_is_enough_to_be_told_what_may_be_meant(name: str, meant: str) -> None:
    assert load({}, {name: "1"}).warnings[0].endswith(meant)


def test_a_clients_key_that_the_service_is_given_is_warned_about_where_it_protects_nothing() -> None:
    key = {"NIMBLE_API_KEY": "abc"}
    assert load({}, key).warnings == (
        "NIMBLE_API_KEY is the key that a client sends; those that the service asks for are set by NIMBLE_API_KEYS: "
        "without them it is open to everybody",
    )
    for protected in ({"NIMBLE_API_KEYS": "abc"}, {"NIMBLE_API_KEYS_FILE": "/keys"}):
        assert load({}, {**key, **protected}).warnings == ()


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--htp-port", ": did you mean --http-port?"),
        ("--port", ": did you mean --http-port or --grpc-port or --metrics-port?"),
        ("--api-keys=abc", "--api-keys: a command line can be read by everybody; set NIMBLE_API_KEYS"),
        ("--hf-token abc", "--hf-token: a command line can be read by everybody; set HF_TOKEN"),
        ("--zzzz=abc", "--zzzz: docs/configuration.md lists all"),
    ],
)
def test_an_option_that_there_is_not_is_refused_with_the_nearest_and_without_its_value(
    argument: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["/artefact", *argument.split()])
    said = capsys.readouterr().err
    assert said.endswith(f"{told}\n")
    assert "abc" not in said
    assert len(said.splitlines()) == 2


def test_a_name_of_nim_without_a_meaning_here_says_why() -> None:
    assert load({}, {"NIM_PEFT_SOURCE": "/loras"}).warnings == (
        "NIM_PEFT_SOURCE is known to NIM and has no effect here: LoRA adapters are not served",
    )


def test_kubernetes_service_links_and_empty_variables_are_no_settings() -> None:
    links = {
        "NIMBLE_CODER_PORT": "tcp://10.0.0.1:80",
        "NIMBLE_CODER_SERVICE_HOST": "10.0.0.1",
        "NIMBLE_CODER_PORT_80_TCP": "x",
    }
    loaded = load({}, {**links, "NIM_MODEL_PROFILE": "", "NIM_PEFT_SOURCE": ""})
    assert (loaded.warnings, dict(loaded.origins)) == ((), {})


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        (
            {"NIM_SERVER_PORT": "eighty"},
            r"NIM_SERVER_PORT is 'eighty' \(environment NIM_SERVER_PORT\): .*valid integer",
        ),
        ({"NIMBLE_HTTP_PORT": "70000"}, r"NIMBLE_HTTP_PORT is '70000' .* less than or equal to 65535"),
        ({"NIMBLE_LOG_LEVEL": "loud"}, r"'trace', 'debug', 'info'"),
        ({"NIMBLE_WORKERS": "0"}, r"greater than or equal to 1"),
        ({"NIMBLE_BUILD_ON_START": "perhaps"}, r"valid boolean"),
        ({"NIM_SSL_MODE": "TLS"}, r"NIM_SSL_MODE is 'tls' .*needs NIMBLE_TLS_CERTIFICATE and NIMBLE_TLS_KEY"),
        ({"NIM_SSL_MODE": "TLS", "NIM_SSL_KEY_PATH": "k"}, "NIMBLE_TLS_CERTIFICATE is not set, but its counterpart is"),
        ({"NIM_SSL_MODE": "MTLS", "NIM_SSL_CERTS_PATH": "c", "NIM_SSL_KEY_PATH": "k"}, "needs NIMBLE_TLS_CLIENT_CA"),
        ({"NIMBLE_TLS_CERTIFICATE": "c"}, "NIMBLE_TLS_KEY is not set"),
        ({"NIMBLE_TLS_CLIENT_CA": "a"}, "NIMBLE_TLS_CLIENT_CA is set, but not NIMBLE_TLS_CERTIFICATE"),
        ({"NIMBLE_HTTP_PORT": "8001"}, "NIMBLE_HTTP_PORT and NIMBLE_GRPC_PORT are both 8001: .* must all be different"),
        ({"NIMBLE_TRITON_GRPC_PORT": "8002"}, "NIMBLE_METRICS_PORT and NIMBLE_TRITON_GRPC_PORT are both 8002"),
        ({"NIMBLE_API_KEYS": " , "}, r"NIMBLE_API_KEYS is not usable .*: it should be a key, or not set at all"),
        ({"NIMBLE_ADMIN_KEY": " "}, r"NIMBLE_ADMIN_KEY is not usable .*: it should be a key, or not set at all"),
        ({"NIMBLE_API_KEYS": "one, schlüssel"}, r"NIMBLE_API_KEYS is not usable .*: it should be of printable ASCII"),
        ({"NIMBLE_API_KEYS": "one\ntwo"}, r"NIMBLE_API_KEYS is not usable .*: it should be of printable ASCII"),
        (
            {"NIMBLE_ADMIN_KEY": "b\N{ZERO WIDTH SPACE}oss"},
            r"NIMBLE_ADMIN_KEY is not usable .*: it should be of printable",
        ),
        ({"NIMBLE_MAX_BODY_BYTES": "3000000000"}, "less than or equal to 2147483647"),  # gRPC holds no more
        ({"NIMBLE_CONFIG": "/nowhere"}, "settings file /nowhere cannot be read"),
    ],
)
def test_a_bad_value_is_told_with_its_name_and_what_is_allowed(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        load({}, environment)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http_prt: 1", "unknown setting 'http_prt': did you mean http_port?"),
        ("- a", "holds a list"),
        ("a: [", "is no YAML"),
        pytest.param("a: " + 3000 * "[" + 3000 * "]", "is nested too deeply", id="nested"),
        ("http_port: 2026-02-30", "is no YAML: day is out of range"),
        ("cache_path: ''", r"NIMBLE_CACHE_PATH is '' \(file .*\): it should be a path, or not given at all"),
        ("workers: 1\nworkers: 2", "is no YAML: 'workers' stands there twice"),
        ("workers: many", r"NIMBLE_WORKERS is 'many' \(file .*\): it should be a valid integer"),
    ],
)
def test_a_mistake_in_the_file_is_told(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(SettingsError, match=complaint):
        load({}, {}, tmp_path / "f")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"# f\xfcr alle\nworkers: 2")
    with pytest.raises(SettingsError, match=r"is no UTF-8 text: .* at byte 3"):
        load({}, {}, tmp_path / "f")


def test_blanks_around_a_variable_are_not_meant() -> None:
    """A secret that was made with `echo` ends with a line."""
    environment = {"NIMBLE_ADMIN_KEY": "boss\n", "NIMBLE_HOST": " ::1 ", "NIM_LOG_LEVEL": "INFO\r\n"}
    settings = load({}, {**environment, "NIMBLE_POLICY": "/policy\n"}).settings
    assert (settings.admin_key.get_secret_value(), settings.host, settings.log_level) == ("boss", "::1", "info")
    assert settings.policy == Path("/policy")


@pytest.mark.parametrize("name", ["artifact", "cache_path", "tls_certificate"])
def test_an_empty_path_is_not_where_one_stands(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"is '' \(command line --{name.replace('_', '-')}\): it should be a path"):
        load({name: ""}, {})


def test_a_mapping_may_be_merged_into_another(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("<<: {workers: 2, http_port: 9000}\nworkers: 3")
    settings = load({}, {}, tmp_path / "f").settings
    assert (settings.workers, settings.http_port) == (3, 9000)


def test_tls_mode_disabled_ignores_the_files() -> None:
    settings = load({}, {"NIM_SSL_MODE": "DISABLED", "NIM_SSL_CERTS_PATH": "c", "NIM_SSL_KEY_PATH": "k"}).settings
    assert not settings.uses_tls


def test_what_contradicts_the_engine_is_refused() -> None:
    demo = find_profile("demo")
    with pytest.raises(SettingsError, match=r"NIM_MAX_MODEL_LEN is 9000 .*holds 8192 tokens"):
        load({}, {"NIM_MAX_MODEL_LEN": "9000"}).for_profile(demo)
    with pytest.raises(SettingsError, match=r"NIM_TENSOR_PARALLEL_SIZE is 2 .*has 1: choose a profile with tp2"):
        load({}, {"NIM_TENSOR_PARALLEL_SIZE": "2"}).for_profile(demo)
    drafts = load({}, {"NIMBLE_DRAFTS_PATH": "/drafts"})
    assert drafts.for_profile(demo).settings.drafts_directory == Path("/drafts")
    compiled = next(profile for profile in PROFILES.values() if not profile.is_portable)
    with pytest.raises(SettingsError, match=r"NIMBLE_DRAFTS_PATH is '/drafts' .*keeps no texts to draft from"):
        drafts.for_profile(compiled)


def test_texts_that_are_not_shared_cannot_be_kept() -> None:
    with pytest.raises(SettingsError, match=r"NIMBLE_DRAFTS_PATH is 'drafts' .*NIMBLE_SHARE_DRAFTS is false"):
        load({}, {"NIMBLE_DRAFTS_PATH": "drafts", "NIMBLE_SHARE_DRAFTS": "false"})


def test_secrets_are_neither_options_nor_shown() -> None:
    loaded = load({}, {"NIMBLE_API_KEYS": "very-secret", "HF_TOKEN": "hf_secret", "NIMBLE_ADMIN_KEY": "secret"})
    assert "secret" not in repr(loaded).replace("SecretStr", "")
    with pytest.raises(SystemExit) as ended:
        parse(["--api-keys", "x"])
    assert ended.value.code == 2


def test_options_are_the_settings_names() -> None:
    asked = parse(["/artefact", "--http-port", "9", "--no-build-on-start", "--config", "f", "--dry-run"])
    assert asked.options == {"artifact": "/artefact", "http_port": "9", "build_on_start": False}
    assert (asked.config, asked.dry_run) == (Path("f"), True)


def test_every_name_belongs_to_one_setting() -> None:
    names = [variable for setting in Settings.model_fields for variable in env_names(setting)]
    assert len(names) == len(set(names))
    assert set(names).isdisjoint(NO_EFFECT)
    assert set(ALIASES) <= set(Settings.model_fields)


def test_the_profiles_part_is_known_of_every_profile() -> None:
    for profile in PROFILES.values():
        assert load({}, {}).for_profile(profile).settings.max_model_len == profile.max_seq_len
