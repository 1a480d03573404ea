"""The pods that serve: what they may do, where they write, when they are ready, how they end."""

import base64
from pathlib import Path
from typing import Any

import pytest

from build_engine.exit_codes import ExitCode
from nimble_coder.settings.loading import Loaded, load
from nimble_coder.settings.model import Settings
from tests.helm.chart import BUILT, CPU, CUDA, EVERYTHING, MTLS, NAME, NODES, Document, Rendered, Values, merged, render

CHOICES: dict[str, Values] = {
    "default": {},
    "cpu": CPU,
    "cuda": CUDA,
    "everything": merged(EVERYTHING, BUILT),
    "mtls": merged(EVERYTHING, MTLS),
    "nodes": NODES,
}
every_choice = pytest.mark.parametrize("rendered", [render(each) for each in CHOICES.values()], ids=list(CHOICES))


def loaded(rendered: Rendered, tmp_path: Path) -> Loaded:
    """What the product makes of the pod's settings file and environment."""
    file = tmp_path / "settings.yaml"
    file.write_text(rendered.settings)
    environment = {
        each["name"]: each.get("value", "from a Secret")
        for each in rendered.container["env"]
        if not each["name"].startswith("OMPI_")
    }
    assert environment.pop("NIMBLE_CONFIG") == f"{mounts(rendered)['settings']['mountPath']}/{file.name}"
    return load({}, environment, file)


def every_pod(rendered: Rendered) -> list[Document]:
    """The specs of those that serve, test and build."""
    jobs = [job["spec"]["template"]["spec"] for job in rendered.all("Job")]
    workers = [worker["spec"] for worker in rendered.workers]
    return [rendered.pod, *workers, *(test["spec"] for test in rendered.all("Pod")), *jobs]


def mounts(rendered: Rendered) -> dict[str, Document]:
    """By the volume's name."""
    return {mount["name"]: mount for mount in rendered.container["volumeMounts"]}


def volumes(rendered: Rendered) -> dict[str, Document]:
    return {volume["name"]: volume for volume in rendered.pod["volumes"]}


@every_choice
def test_the_product_takes_all_settings(rendered: Rendered, tmp_path: Path) -> None:
    assert loaded(rendered, tmp_path).warnings == ()


def test_the_settings_arrive_as_they_were_written(tmp_path: Path) -> None:
    found = loaded(render(EVERYTHING), tmp_path).settings
    assert found.model_profile == EVERYTHING["settings"]["model_profile"]
    assert found.names == EVERYTHING["settings"]["served_model_names"]
    assert (found.max_body_bytes, found.drain_seconds, found.kv_cache_fraction) == (33554432, 90.5, 0.8)
    assert found.hf_token.get_secret_value() == "from a Secret"


def test_files_of_settings_are_in_what_is_mounted(tmp_path: Path) -> None:
    rendered = render(EVERYTHING, MTLS)
    places, settings = mounts(rendered), loaded(rendered, tmp_path).settings
    for volume, files in {
        "keys": [settings.api_keys_file],
        "tls": [settings.tls_certificate, settings.tls_key],
        "client-ca": [settings.tls_client_ca],
    }.items():
        assert places[volume]["readOnly"] is True
        assert {str(Path(str(file)).parent) for file in files} == {places[volume]["mountPath"]}
    assert settings.tls_certificate == Path("/etc/nimble-coder/tls/tls.crt")


def test_secrets_are_mounted_whole_so_that_changes_arrive() -> None:
    rendered = render(EVERYTHING, MTLS)
    assert "subPath" not in str(rendered.container["volumeMounts"])
    secrets = {name: each["secret"] for name, each in volumes(rendered).items() if "secret" in each}
    assert {name: each["secretName"] for name, each in secrets.items()} == {
        "keys": "coder-keys",
        "tls": "coder-tls",
        "client-ca": "clients",
    }
    assert {each["defaultMode"] for each in secrets.values()} == {0o440}


@every_choice
def test_it_runs_as_the_image_does_without_any_right(rendered: Rendered) -> None:
    for pod in every_pod(rendered):
        wanted = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 0}
        assert wanted.items() <= pod["securityContext"].items()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@every_choice
def test_it_can_write_where_the_image_has_to(rendered: Rendered) -> None:
    writable = {mount["mountPath"] for mount in rendered.container["volumeMounts"] if not mount.get("readOnly")}
    assert writable - {"/etc/policies"} == {"/tmp", "/dev/shm", "/opt/nim/.cache"}  # noqa: S108 - the pod's
    assert volumes(rendered)["shared-memory"]["emptyDir"]["medium"] == "Memory"
    assert "sizeLimit" in volumes(rendered)["shared-memory"]["emptyDir"]


@every_choice
def test_no_pod_takes_more_than_it_was_given(rendered: Rendered) -> None:
    for pod in every_pod(rendered):
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert "memory" in container["resources"]["limits"]
        volatile = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
        assert volatile
        assert all("sizeLimit" in each for each in volatile)


@every_choice
def test_every_mount_has_its_volume(rendered: Rendered) -> None:
    for pod in every_pod(rendered):
        (container,) = pod["containers"]
        named = [mount["name"] for mount in container["volumeMounts"]]
        assert sorted(named) == sorted(volume["name"] for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({}, {"nvidia.com/gpu": "1", "memory": "96Gi"}),
        (
            {"gpu": {"count": 1, "resource": "nvidia.com/mig-3g.40gb"}},
            {"nvidia.com/mig-3g.40gb": "1", "memory": "96Gi"},
        ),
        (EVERYTHING, {"nvidia.com/gpu": "2", "memory": "128Gi"}),
        (CPU, {"memory": "2Gi"}),
        (CUDA, {"nvidia.com/gpu": "1", "memory": "64Gi"}),
    ],
)
def test_gpus_are_in_the_limits(values: Values, limits: dict[str, str]) -> None:
    assert render(values).container["resources"]["limits"] == limits


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "nimble-coder:0.1.0"),
        (CPU, "nimble-coder:0.1.0-cpu"),
        (CUDA, "nimble-coder:0.1.0-cuda"),
        (merged(CUDA, {"image": {"tag": "x"}}), "nimble-coder:x"),
        ({"image": {"repository": "r.example/n", "tag": "x"}}, "r.example/n:x"),
        ({"image": {"tag": "x", "digest": f"sha256:{'a' * 64}"}}, f"nimble-coder@sha256:{'a' * 64}"),
    ],
)
def test_the_image_is_the_one_that_was_chosen(values: Values, image: str) -> None:
    rendered = render(values)
    assert {rendered.container["image"], rendered.one("Pod", "-test")["spec"]["containers"][0]["image"]} == {image}


@every_choice
def test_probes_ask_a_port_without_keys_and_tls(rendered: Rendered) -> None:
    container = rendered.container
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    defaults = Settings()
    assert ports == {"http": defaults.http_port, "grpc": defaults.grpc_port, "metrics": defaults.metrics_port}
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in asked.values()} == {"metrics"}
    assert all("scheme" not in probe for probe in asked.values())
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": "/v1/health/ready",
        "readiness": "/v1/health/ready",
        "liveness": "/v1/health/live",
    }


@pytest.mark.parametrize("minutes", [1, 120, 600])
def test_a_start_has_its_minutes(minutes: int) -> None:
    rendered = render({"startupMinutes": minutes})
    startup = rendered.container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == minutes * 60
    assert rendered.one("Deployment")["spec"]["progressDeadlineSeconds"] > minutes * 60


@pytest.mark.parametrize("drain", [None, 0, 90.5, 600])
def test_the_grace_period_covers_the_drain(drain: float | None) -> None:
    """docs/operations.md: NIMBLE_DRAIN_SECONDS + 10, here after the seconds in which Services learn of the end."""
    rendered = render({"settings": {} if drain is None else {"drain_seconds": drain}})
    name, seconds = rendered.container["lifecycle"]["preStop"]["exec"]["command"]
    seconds_of_all = int(seconds) + 10 + (Settings().drain_seconds if drain is None else drain)
    assert name == "sleep"
    assert seconds_of_all <= rendered.pod["terminationGracePeriodSeconds"] < seconds_of_all + 1


@pytest.mark.parametrize(
    ("cache", "strategy", "volume"),
    [
        ({}, "Recreate", {"persistentVolumeClaim": {"claimName": f"{NAME}-cache"}}),
        ({"accessMode": "ReadWriteOncePod"}, "Recreate", {"persistentVolumeClaim": {"claimName": f"{NAME}-cache"}}),
        ({"accessMode": "ReadWriteMany"}, "RollingUpdate", {"persistentVolumeClaim": {"claimName": f"{NAME}-cache"}}),
        (
            {"accessMode": "ReadOnlyMany", "existingClaim": "filled"},
            "RollingUpdate",
            {"persistentVolumeClaim": {"claimName": "filled"}},
        ),
        ({"enabled": False, "size": "9Gi"}, "RollingUpdate", {"emptyDir": {"sizeLimit": "9Gi"}}),
    ],
)
def test_a_volume_for_one_pod_is_never_wanted_by_two(cache: Values, strategy: str, volume: Document) -> None:
    rendered = render({"cache": cache})
    found = rendered.one("Deployment")["spec"]["strategy"]
    assert found["type"] == strategy
    if strategy == "RollingUpdate":
        assert found["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert volumes(rendered)["cache"] == {"name": "cache", **volume}
    assert bool(mounts(rendered)["cache"].get("readOnly")) == (cache.get("accessMode") == "ReadOnlyMany")
    assert len(rendered.all("PersistentVolumeClaim")) == ("existingClaim" not in cache and "enabled" not in cache)


def test_a_strategy_of_ones_own_is_taken() -> None:
    strategy: dict[str, Any] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}}
    assert render({"strategy": strategy}).one("Deployment")["spec"]["strategy"] == strategy


def test_the_claim_outlives_the_release_unless_told_otherwise() -> None:
    kept = render().one("PersistentVolumeClaim", "-cache")["metadata"]["annotations"]
    assert kept == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in render({"cache": {"keep": False}}).one("PersistentVolumeClaim", "-cache")["metadata"]


def test_the_administrators_key_comes_from_its_secret(tmp_path: Path) -> None:
    rendered = render({"adminKey": {"secret": "coder-admin", "key": "admin"}})
    (given,) = [each for each in rendered.container["env"] if each["name"] == "NIMBLE_ADMIN_KEY"]
    assert given["valueFrom"] == {"secretKeyRef": {"name": "coder-admin", "key": "admin"}}
    assert loaded(rendered, tmp_path).settings.admin_key.get_secret_value() == "from a Secret"
    assert "NIMBLE_ADMIN_KEY" not in str(render().container["env"])


def checksum(*layers: Values) -> str:
    template = render(*layers).one("Deployment")["spec"]["template"]
    return str(template["metadata"]["annotations"]["checksum/settings"])


def test_changed_settings_replace_the_pods_and_changed_labels_of_others_do_not() -> None:
    others = {"settings": {"drain_seconds": 60}, "auth": {"enabled": False}, "tls": {"secret": "tls"}}
    assert len({checksum(), *(checksum({name: value}) for name, value in others.items())}) == 4
    assert checksum({"service": {"annotations": {"a": "b"}}, "replicas": 0}) == checksum()


def test_what_is_passed_on_arrives() -> None:
    rendered = render(EVERYTHING)
    template = rendered.one("Deployment")["spec"]["template"]
    names = ("nodeSelector", "affinity", "topologySpreadConstraints", "priorityClassName", "runtimeClassName")
    for name in names:
        assert rendered.pod[name] == EVERYTHING[name], name
    assert rendered.pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert rendered.pod["imagePullSecrets"] == EVERYTHING["image"]["pullSecrets"]
    assert EVERYTHING["podLabels"].items() <= template["metadata"]["labels"].items()
    assert EVERYTHING["podAnnotations"].items() <= template["metadata"]["annotations"].items()
    assert EVERYTHING["extraEnv"][0] in rendered.container["env"]
    assert EVERYTHING["extraVolumes"][0] in rendered.pod["volumes"]
    assert EVERYTHING["extraVolumeMounts"][0] in rendered.container["volumeMounts"]


@pytest.mark.parametrize(
    ("values", "name", "made"),
    [
        ({}, NAME, 1),
        ({"name": "mine"}, "mine", 1),
        ({"create": False, "name": "theirs"}, "theirs", 0),
        ({"create": False}, "default", 0),
    ],
)
def test_the_service_account_gets_no_token(values: Values, name: str, made: int) -> None:
    rendered = render({"serviceAccount": values})
    assert rendered.pod["serviceAccountName"] == name
    accounts = [
        (each["metadata"]["name"], each["automountServiceAccountToken"]) for each in rendered.all("ServiceAccount")
    ]
    assert accounts == [(name, False)] * made


def test_the_job_builds_what_the_pods_serve_before_there_are_pods(tmp_path: Path) -> None:
    rendered = render(EVERYTHING, BUILT)
    job, settings = rendered.one("Job", "-build"), rendered.one("ConfigMap", "-build")
    for each in (job, settings):
        assert each["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert settings["metadata"]["annotations"]["helm.sh/hook-weight"] == "-1"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["prepare"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2", "memory": "96Gi"}
    (tmp_path / "settings.yaml").write_text(settings["data"]["settings.yaml"])
    told = load({}, {}, tmp_path / "settings.yaml").settings
    served = loaded(rendered, tmp_path).settings
    assert (told.model_profile, told.baked_artifact) == (served.model_profile, served.baked_artifact)
    # Files that are mounted in the pods only.
    assert (told.api_keys_file, told.tls_certificate) == (None, None)
    assert served.build_on_start is False
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert volumes["cache"]["persistentVolumeClaim"] == {"claimName": "filled"}
    assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "build"


def test_the_job_is_tried_again_unless_it_was_asked_for_wrongly() -> None:
    spec = render(BUILT, {"build": {"retries": 7, "minutes": 30}}).one("Job", "-build")["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (7, 1800)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [ExitCode.ASKED, ExitCode.MACHINE])


def test_a_download_needs_no_gpu_and_leaves_the_building_to_the_pods(tmp_path: Path) -> None:
    rendered = render(BUILT, {"build": {"downloadOnly": True}, "settings": {"model_name": "qwen2.5-coder-7b-instruct"}})
    spec = rendered.one("Job", "-build")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["args"] == ["prepare", "--download-only"]
    assert container["resources"]["limits"] == {"memory": "96Gi"}
    assert loaded(rendered, tmp_path).settings.build_on_start is True


def test_the_job_runs_where_the_pods_do_unless_it_only_downloads() -> None:
    named = {"nodeSelector": {"kubernetes.io/arch": "amd64"}}
    asked = merged(CPU, BUILT, {"cache": {"enabled": True}, "settings": {"model_profile": "demo"}}, named)
    for downloads, selector in ((False, named["nodeSelector"]), (True, None)):
        job = render(asked, {"build": {"downloadOnly": downloads}}).one("Job", "-build")["spec"]["template"]["spec"]
        assert job.get("nodeSelector") == selector


@pytest.mark.parametrize(("values", "name"), [({"create": False, "name": "theirs"}, "theirs"), ({}, None)])
def test_the_job_has_the_service_account_that_is_there_before_the_release(values: Values, name: str | None) -> None:
    job = render(BUILT, {"serviceAccount": values}).one("Job", "-build")
    assert job["spec"]["template"]["spec"].get("serviceAccountName") == name


def test_one_engine_on_several_nodes_is_served_by_the_leaders_of_groups() -> None:
    rendered = render(NODES, {"replicas": 3})
    assert rendered.all("Deployment") == []
    spec = rendered.one("LeaderWorkerSet", "-group")["spec"]
    assert (spec["replicas"], spec["leaderWorkerTemplate"]["size"]) == (3, 2)
    assert rendered.container["args"] == ["serve", "/opt/nim/.cache/stores/32b"]
    (worker,) = rendered.workers
    (ranks,) = worker["spec"]["containers"]
    assert ranks["resources"] == rendered.container["resources"]
    assert rendered.container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["spec"]["terminationGracePeriodSeconds"] == rendered.pod["terminationGracePeriodSeconds"]
    where = {volume["name"]: volume for volume in worker["spec"]["volumes"]}
    assert where["cache"] == volumes(rendered)["cache"]
    assert where["ranks"] == volumes(rendered)["ranks"]


def test_mpirun_finds_and_reaches_the_workers() -> None:
    """Open MPI takes the first word of a host's name where it is not told otherwise, and starts hosts from hosts."""
    environment = {each["name"]: each.get("value") for each in render(NODES).container["env"]}
    assert environment["OMPI_MCA_orte_keep_fqdn_hostnames"] == "true"
    assert environment["OMPI_MCA_plm_rsh_no_tree_spawn"] == "1"
    secret = render(NODES).one("Secret", "-ranks")
    assert environment["OMPI_MCA_plm_rsh_agent"] == "ssh -F /etc/nimble-coder/ranks/ssh_config"
    port = render(NODES).workers[0]["spec"]["containers"][0]["ports"][0]["containerPort"]
    for file in ("ssh_config", "sshd_config"):
        assert f"Port {port}\n" in secret["stringData"][file]


def test_each_release_has_a_key_of_its_own_for_its_ranks() -> None:
    keys = {render(NODES).one("Secret", "-ranks")["data"]["key"] for _ in range(2)}
    assert len(keys) == 2
    assert all(base64.b64decode(key).startswith(b"-----BEGIN EC PRIVATE KEY-----") for key in keys)
