package istio

import (
	"slices"
	"strconv"
	"strings"

	"gatehouse/doctor/tree"
)

// Gatehouse's container beside an application, and its port for the kubelet's probes, as gatehouse k8s generate and the injector name them.
const (
	sidecarName   = "gatehouse"
	sidecarProbes = "gatehouse-admin"
)

// splitPorts takes a list of ports apart into those that only Gatehouse's sidecar listens on, and all others. What is not a plain number is among the others.
func splitPorts(list string, pod tree.Node) (ours, others []string) {
	probes := probesOf(pod)
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		switch {
		case entry == "":
		case probes != "" && entry == probes:
			ours = append(ours, entry)
		default:
			others = append(others, entry)
		}
	}
	return ours, others
}

// probesOf is the port of a pod that Gatehouse's sidecar has for probes; "" where there is none, or where another container has it too. It must run
// as long as the application, as its port is free for others afterwards.
func probesOf(pod tree.Node) string {
	var probes string
	containers := pod.Get("spec", "containers").Items()
	for _, c := range pod.Get("spec", "initContainers").Items() {
		if c.Get("restartPolicy").Text() == "Always" {
			containers = append(containers, c)
		}
	}
	sidecar := slices.IndexFunc(containers, func(c tree.Node) bool { return c.Get("name").Text() == sidecarName })
	if sidecar < 0 {
		return ""
	}
	for _, p := range containers[sidecar].Get("ports").Items() {
		if p.Get("name").Text() == sidecarProbes {
			probes = p.Get("containerPort").Text()
		}
	}
	for i, c := range containers {
		if i != sidecar && slices.ContainsFunc(c.Get("ports").Items(), func(p tree.Node) bool { return samePort(p.Get("containerPort").Text(), probes) }) {
			return ""
		}
	}
	return probes
}

// samePort compares ports as numbers: YAML has more than one way to write one.
func samePort(a, b string) bool {
	x, errX := strconv.ParseUint(a, 0, 16)
	y, errY := strconv.ParseUint(b, 0, 16)
	return errX == nil && errY == nil && x == y
}
