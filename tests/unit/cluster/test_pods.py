"""The pods: their rights, resources, volumes and images."""

import re


def test_no_pod_has_more_rights_than_it_needs(pods, containers, ray_specs):
    for name, _, spec in pods:
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert not [each for each in spec.get("volumes", ()) if "hostPath" in each], name
        if spec.get("serviceAccountName") != "facevae-head":  # the autoscaler's
            assert spec["automountServiceAccountToken"] is False, name
    confined = [each["securityContext"] for _, each in containers]
    confined += [each["autoscalerOptions"]["securityContext"] for each in ray_specs.values()]
    for context in confined:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context


def test_every_container_has_requests_and_limits(containers, ray_specs):
    resources = [(name, each["resources"]) for name, each in containers]
    resources += [(n, each["autoscalerOptions"]["resources"]) for n, each in ray_specs.items()]
    for name, each in resources:
        assert {"cpu", "memory"} <= set(each["requests"]), name
        assert {"cpu", "memory"} <= set(each["limits"]), name


def test_the_object_store_has_room_in_shared_memory(ray_specs):
    for name, spec in ray_specs.items():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            (mount,) = (e for e in container["volumeMounts"] if e["mountPath"] == "/dev/shm")
            (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
            assert volume["emptyDir"]["medium"] == "Memory", name
            limit = gibibytes(container["resources"]["limits"]["memory"])
            assert 0.3 * limit <= gibibytes(volume["emptyDir"]["sizeLimit"]) < limit, name


def gibibytes(quantity: str) -> float:
    return float(re.fullmatch(r"(\d+)Gi", quantity)[1])


def test_volumes_mounts_and_claims_belong_together(pods, standing, runs):
    own_claims = {
        each["metadata"]["name"]: {
            claim["metadata"]["name"] for claim in each["spec"]["volumeClaimTemplates"]
        }
        for each in standing["StatefulSet"]
    }
    used = set()
    for name, _, spec in pods:
        volumes = spec.get("volumes", [])
        known = {each["name"] for each in volumes} | own_claims.get(name, set())
        mounts = [mount for each in spec["containers"] for mount in each.get("volumeMounts", [])]
        assert {each["name"] for each in mounts} == known, name
        used |= {
            e["persistentVolumeClaim"]["claimName"]
            for e in volumes
            if len(e) == 2 and "persistentVolumeClaim" in e
        }
    assert used == {each["metadata"]["name"] for each in runs["PersistentVolumeClaim"]}


def test_only_the_sharding_needs_the_volume_of_faces(runs):
    for job in runs["RayJob"]:
        spec = job["spec"]["rayClusterSpec"]
        mounted = {
            group.get("groupName", "head")
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
            for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]
            if mount["mountPath"] == "/faces"
        }
        is_sharding = job["metadata"]["name"] == "facevae-shards"
        assert mounted == ({"head", "data"} if is_sharding else set())


def test_images_are_pinned_and_ours_is_one(containers):
    images = {each["image"] for _, each in containers}
    assert sum("facevae" in image for image in images) == 1
    for image in images:
        assert re.search(r":[^:/]*\d+\.\d+[^:/]*$", image), image


def test_servers_have_probes_on_ports_that_they_name(containers):
    servers = [
        e for name, e in containers if name.split("-")[1:] in (["mlflow"], ["postgres"], ["redis"])
    ]
    assert len(servers) == 3
    for container in servers:
        assert {"readinessProbe", "livenessProbe"} <= set(container)
        ports = {each["name"] for each in container["ports"]}
        probes = [each for key, each in container.items() if key.endswith("Probe")]
        assert {each["httpGet"]["port"] for each in probes if "httpGet" in each} <= ports
