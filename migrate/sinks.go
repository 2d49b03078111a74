package migrate

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// takeLogs takes over where decisions go, once all services are known.
func (m *migration) takeLogs() {
	s := m.logs
	if s.node == nil {
		return
	}
	m.takeLogSettings(s)
	target, ok := s.below("service")
	if !ok {
		return
	}
	from := m.useService(target, target.node.Value, "decision_log")
	if from == nil {
		return
	}
	from.used = true
	resource := cmp.Or(scalarBelow(s.node, "resource_path"), "/logs")
	if partition := scalarBelow(s.node, "partition_name"); partition != "" && scalarBelow(s.node, "resource_path") == "" {
		resource = path.Join("/logs", partition)
	}
	m.sink = []string{"url: " + quote(joinURL(from.url, resource)), "service: " + quote(from.setting.name())}
	if reporting, ok := s.below("reporting"); ok {
		reporting.each(m.takeReporting)
	}
	m.persist = true
}

func (m *migration) takeLogSettings(s setting) {
	s.each(func(c setting) {
		switch c.name() {
		case "service", "resource_path", "partition_name", "resource":
		case "console":
			m.takeConsole(c)
		case "mask_decision":
			m.defaultRule(c, "mask")
		case "drop_decision":
			m.defaultRule(c, "drop")
		case "reporting":
			if _, sent := s.below("service"); !sent {
				m.lost(c, "decision_log", "it is about what is sent, and nothing is")
			}
		case "request_context":
			m.lost(c, "decision_log", "an entry holds the request's headers in its input already")
		case "nd_builtin_cache":
			m.lost(c, "decision_log", "results of non-deterministic built-ins are not logged")
		default:
			m.lost(c, "decision_log", "sinks are described in docs/decisionlog.md")
		}
	})
}

// defaultRule is for the rules about the log, which have one name here.
func (m *migration) defaultRule(s setting, name string) {
	if strings.Trim(s.node.Value, "/") != "system/log/"+name {
		m.lost(s, "decision_log", fmt.Sprintf("the rule is data.system.log.%s, as it is by default: another one is not asked", name))
	}
}

func (m *migration) takeReporting(c setting) {
	n, err := strconv.ParseInt(c.node.Value, 10, 64)
	switch c.name() {
	case "upload_size_limit_bytes":
		if err != nil || n < 1 {
			m.fail(c, "%q is not a number of bytes", c.node.Value)
			return
		}
		bounded := min(max(n, 1<<10), 1<<20)
		m.sink = append(m.sink, "max_request: "+sizeText(bounded))
		if bounded != n {
			m.lost(c, "decision_log", "a request is from 1KiB to 1MiB")
		}
	case "min_delay_seconds":
		if err != nil || n < 1 || n > 1<<20 {
			m.fail(c, "%q is not a number of seconds", c.node.Value)
			return
		}
		m.sink = append(m.sink, fmt.Sprintf("delay: %ds", n))
	case "max_delay_seconds":
		m.note(c, "decision_log", "a request is sent once it is full, or after delay")
	case "trigger":
		if c.node.Value != "periodic" {
			m.lost(c, "decision_log", "decisions are sent as they come")
		}
	case "max_decisions_per_second":
		m.lost(c, "decision_log", "nothing is left out: what cannot be sent yet waits in state_dir")
	case "buffer_size_limit_bytes", "buffer_size_limit_events", "buffer_type":
		m.lost(c, "decision_log", "what cannot be sent yet waits in state_dir, up to decision_log.max_size; then on_full decides")
	default:
		m.lost(c, "decision_log", "not a setting of a sink here")
	}
}

// takeStatus takes over where the state of the bundles is reported, once all services are known.
func (m *migration) takeStatus() {
	s := m.state
	if s.node == nil {
		return
	}
	s.each(func(c setting) {
		switch c.name() {
		case "service", "partition_name":
		case "prometheus":
			m.note(c, "status", "/metrics on the admin port always has the bundles")
		case "trigger":
			if c.node.Value != "periodic" {
				m.lost(c, "status", "it is reported whenever it changes, and each interval")
			}
		default:
			m.lost(c, "status", "read /status and /metrics on the admin port")
		}
	})
	target, ok := s.below("service")
	if !ok {
		return
	}
	if from := m.useService(target, target.node.Value, "status"); from != nil {
		from.used = true
		m.status = []string{"url: " + quote(joinURL(from.url, path.Join("/status", scalarBelow(s.node, "partition_name")))), "service: " + quote(from.setting.name())}
	}
}

func (m *migration) takePersistence(s setting) {
	if v, ok := m.scalar(s); ok {
		m.stateDir = filepath.Join(v, "gatehouse") // a folder of our own
	}
}
