"""A Kubernetes cluster of one node in namespaces of its own, from programs that lie in one directory.

Everything runs in the network, mount and process namespaces of `scripts/test-kubernetes` and ends with them. No
package has CoreDNS, so a dnsmasq answers for the Services.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.kubernetes.cluster import Cluster

ADDRESS, GATEWAY, PODS, SERVICES = "10.213.78.1", "10.213.78.2", "10.213.79.0/24", "10.213.80.0/24"
API = "https://127.0.0.1:6443"
TOKEN = "admin"
PAUSE = "localhost/pause:1"
BY_HAND = "by-hand"
"""The class of the volumes."""
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""What the kubelet would set on the machine; it sees these instead."""

CONTAINERD = """
version = 2
root = "{work}/containerd"
state = "{state}/containerd"
[grpc]
address = "{state}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{work}/cni"
"""
CNI = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "{state}/ipam",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "clusterDNS": [ADDRESS],
    "clusterDomain": "cluster.local",
    "evictionHard": {"memory.available": "100Mi"},
    "failSwapOn": False,
    "imageGCHighThresholdPercent": 100,  # what is removed from a full disk could not be pulled again
    "oomScoreAdj": 0,
}


@dataclass
class OwnCluster(Cluster):
    """Started once, used by all tests."""

    programs: Path = Path()
    """kube-apiserver and its like."""
    work: Path = Path()
    """Data and logs."""
    state: Path = Path()
    """What is gone with the cluster."""
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Until the node is ready; raises `RuntimeError` with a program's last lines where it is not."""
        shutil.rmtree(self.work, ignore_errors=True)
        for directory in (self.work, self.state, self.logs, self.work / "cni"):
            directory.mkdir(parents=True, exist_ok=True)
        self._network()
        self._start_control_plane()
        self._start_node()
        self.wait("the node is ready", self._node_is_ready, 120)
        threading.Thread(target=self._name_services, daemon=True).start()

    @property
    def logs(self) -> Path:
        return self.work / "logs"

    @property
    def storage_class(self) -> str:
        return BY_HAND

    def provide(self, volumes: int) -> None:
        """So many directories of the node for claims."""
        for number in range(volumes):
            place = self.work / "volumes" / str(number)
            place.mkdir(parents=True)
            place.chmod(0o2777)
            self.apply(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"{BY_HAND}-{number}"},
                    "spec": {
                        "capacity": {"storage": "1Gi"},
                        "accessModes": ["ReadWriteOnce"],
                        "storageClassName": BY_HAND,
                        "hostPath": {"path": str(place)},
                    },
                }
            )

    def check(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{self._tail(name)}")

    def told(self) -> str:
        return self._tail("kubelet")

    def _tail(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")[-3000:]

    def _name_services(self) -> None:
        """Lets pods find every Service by its name, for as long as the cluster is there."""
        known = ""
        while not self._stopped.wait(0.5):
            lines = []
            for service in self.get("services", "--all-namespaces")["items"]:
                name, address = service["metadata"], service["spec"].get("clusterIP", "None")
                if address != "None":
                    lines.append(f"{address} {name['name']}.{name['namespace']}.svc.cluster.local\n")
            if (hosts := "".join(lines)) != known:
                known = hosts
                (self.state / "hosts").write_text(hosts)
                self.processes["dnsmasq"].send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Ends the programs; the pods end with their namespaces."""
        self._stopped.set()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _run(self, name: str, *command: str | Path, **environment: str) -> None:
        with (self.logs / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true", **environment},
            )

    def _network(self) -> None:
        for line in (
            "link set lo up",
            "link add node type veth peer name world",
            f"address add {ADDRESS}/29 dev node",
            "link set node up",
            "link set world up",
            f"route add default via {GATEWAY} dev node",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _start_control_plane(self) -> None:
        self._run("etcd", "etcd", f"--data-dir={self.work}/etcd", "--unsafe-no-fsync")
        key = self.state / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.state / "tokens.csv"
        tokens.write_text(f"{TOKEN},admin,1,system:masters\n")
        self._run(
            "kube-apiserver",
            self.programs / "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--cert-dir={self.state}/certificates",
            f"--token-auth-file={tokens}",
            f"--advertise-address={ADDRESS}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=AlwaysAllow",
            "--allow-privileged=true",
        )
        cluster = {"name": "one", "cluster": {"server": API, "insecure-skip-tls-verify": True}}
        context = {"name": "one", "context": {"cluster": "one", "user": "one"}}
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "contexts": [context],
                    "users": [{"name": "one", "user": {"token": TOKEN}}],
                    "current-context": "one",
                }
            )
        )
        self.wait("the API server is ready", self._api_is_ready, 60)
        manager = self.programs / "kube-controller-manager"
        common = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false"]
        signing = [f"--service-account-private-key-file={key}", f"--cluster-cidr={PODS}"]
        self._run("kube-controller-manager", manager, *common, *signing, f"--cert-dir={self.state}/manager")
        self._run("kube-scheduler", self.programs / "kube-scheduler", *common, f"--cert-dir={self.state}/scheduler")

    def _start_node(self) -> None:
        self._hide_what_the_kubelet_may_not_touch()
        (self.state / "hosts").touch()
        resolver = ["--keep-in-foreground", "--no-resolv", "--no-hosts", f"--listen-address={ADDRESS}", "--user=root"]
        self._run(
            "dnsmasq",
            "dnsmasq",
            *resolver,
            "--bind-interfaces",
            "--local=/cluster.local/",
            f"--addn-hosts={self.state}/hosts",
            "--pid-file=",
        )
        cni = json.dumps(CNI).replace("{state}", str(self.state))
        (self.work / "cni" / "pods.conflist").write_text(cni)
        config = self.work / "containerd.toml"
        config.write_text(CONTAINERD.format(work=self.work, state=self.state, pause=PAUSE))
        self._run("containerd", "containerd", "--config", config)
        self.wait("containerd listens", (self.state / "containerd.sock").exists, 30)
        (self.work / "kubelet.json").write_text(json.dumps(KUBELET))
        self._run(
            "kubelet",
            self.programs / "kubelet",
            f"--config={self.work}/kubelet.json",
            f"--kubeconfig={self.kubeconfig}",
            f"--root-dir={self.state}/kubelet",
            f"--cert-dir={self.state}/kubelet-certificates",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{self.state}/containerd.sock",
            "--hostname-override=localhost",
            f"--node-ip={ADDRESS}",
        )
        proxy = ["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--proxy-mode=iptables"]
        proxy += ["--conntrack-tcp-timeout-close-wait=0", f"--cluster-cidr={PODS}", "--hostname-override=localhost"]
        self._run("kube-proxy", self.programs / "kube-proxy", f"--kubeconfig={self.kubeconfig}", *proxy)

    def _hide_what_the_kubelet_may_not_touch(self) -> None:
        subprocess.run(["mount", "--make-rshared", "/"], check=True)
        if Path("/sys/fs/cgroup/unified").is_mount():  # beside cgroups of version 1 runc takes it for version 2
            subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
        for name, value in TUNABLES.items():
            file = self.state / name.replace("/", "-")
            file.write_text(f"{value}\n")
            subprocess.run(["mount", "--bind", file, f"/proc/sys/{name}"], check=True)

    def load(self, archive: Path) -> None:
        """An image, as `podman save` has written it."""
        command = ["ctr", f"--address={self.state}/containerd.sock", "--namespace=k8s.io", "images", "import", archive]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)

    def _api_is_ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except RuntimeError:
            return False

    def _node_is_ready(self) -> bool:
        nodes = self.get("nodes")["items"]
        conditions = [each for node in nodes for each in node["status"]["conditions"]]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
