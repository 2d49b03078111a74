package migrate

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// opaKey is one of OPA's keys.
type opaKey struct {
	setting         setting
	algorithm, file string
	scope           string
	used            bool
}

// takeKey takes a key for signatures over. A public key is written beside the result, where that is a file.
func (m *migration) takeKey(s setting) {
	key := &opaKey{setting: s, algorithm: cmp.Or(scalarBelow(s.node, "algorithm"), "RS256"), scope: scalarBelow(s.node, "scope"), file: fileName(s.name()) + ".pem"}
	m.keys[s.name()] = key
	m.keyNames = append(m.keyNames, s.name())
	s.each(func(c setting) {
		switch c.name() {
		case "algorithm", "scope":
		case "key":
			if info, err := os.Stat(c.node.Value); err == nil && info.Mode().IsRegular() {
				key.file = m.relative(c.node.Value)
			} else if strings.HasPrefix(strings.TrimSpace(c.node.Value), "-----BEGIN ") && !strings.Contains(c.node.Value, "PRIVATE") && m.output != Stdout {
				m.files = append(m.files, beside{path: filepath.Join(m.dir, key.file), text: strings.TrimSpace(c.node.Value) + "\n"})
				m.note(c, "policy", "is written to "+key.file)
			} else {
				m.lost(c, "policy", "keys stand in files here: put this one into "+key.file)
			}
		case "private_key":
			m.lost(c, "policy", "only public keys belong into a server's configuration; gatehouse bundle sign has the private one")
		default:
			m.lost(c, "policy", "not a setting of a key here")
		}
	})
}

// beside is a file to be written with the result.
type beside struct{ path, text string }

// signing gives a bundle's signing section.
func (m *migration) signing(s setting) string {
	names, scope := slices.Clone(m.keyNames), scalarBelow(s.node, "scope")
	if id := scalarBelow(s.node, "keyid"); id != "" {
		names = []string{id}
	}
	s.each(func(c setting) {
		switch c.name() {
		case "keyid", "scope":
		case "exclude_files":
			m.lost(c, "policy", "every file of a signed bundle must be signed")
		default:
			m.lost(c, "policy", "not a setting of signing here")
		}
	})
	var keys []string
	symmetric := ""
	for _, name := range names {
		key := m.keys[name]
		if key == nil {
			key = &opaKey{algorithm: "RS256", file: fileName(name) + ".pem"}
			m.lost(s, "policy", fmt.Sprintf("keys has no %q: the bundle needs its public key in %s, and the right algorithm", name, key.file))
		}
		key.used = true
		one := fmt.Sprintf("id: %s, file: %s, algorithm: %s", quote(name), quote(key.file), quote(key.algorithm))
		if scope := cmp.Or(scope, key.scope); scope != "" {
			one += ", scope: " + quote(scope)
		}
		if strings.HasPrefix(key.algorithm, "HS") {
			symmetric = ", allow_hs256: true"
		}
		keys = append(keys, "{"+one+"}")
	}
	return "signing: {keys: [" + strings.Join(keys, ", ") + "]" + symmetric + "}"
}

// takeBundles takes over each bundle that is fetched, once all services and keys are known.
func (m *migration) takeBundles() {
	for _, s := range m.local {
		m.signed[m.localNames[s.path[len(s.path)-2]]] = m.signing(s)
	}
	for _, r := range m.remote {
		from := m.useService(r.setting, r.service, "policy")
		if from == nil {
			continue
		}
		b := migratedBundle{name: m.bundleName(r.name, r.setting)}
		add := func(format string, args ...any) { b.lines = append(b.lines, fmt.Sprintf(format, args...)) }
		resource := r.resource
		if plain, query, ok := strings.Cut(resource, "?"); ok && !harmlessQuery(query) {
			resource = plain
			named := r.setting
			if c, ok := r.setting.below("resource"); ok {
				named = c
			}
			m.lost(named, "policy", "the query of its resource is left out, because it may hold a secret")
		}
		if from.oci {
			add("image: %s", quote(resource))
			if len(from.lines) > 0 && !from.secret {
				add("service: %s", quote(from.setting.name()))
				from.used = true
			}
		} else {
			add("url: %s", quote(joinURL(from.url, resource)))
			add("service: %s", quote(from.setting.name()))
			from.used = true
		}
		m.bundleSettings(&b, r.setting, !from.oci)
		m.fetched = append(m.fetched, b)
	}
	for _, name := range m.serviceNames {
		if s := m.services[name]; !s.used && !s.oci {
			m.note(s.setting, "services", "nothing uses it")
		}
	}
	for _, name := range m.keyNames {
		if k := m.keys[name]; !k.used {
			m.lost(k.setting, "policy", "no bundle is verified with it")
		}
	}
}

// harmlessQuery reports whether a query only says what of an object is meant, as of one in Google's storage.
func harmlessQuery(query string) bool {
	values, err := url.ParseQuery(query)
	for name := range values {
		if !slices.Contains([]string{"alt", "generation", "ref", "version", "versionId"}, name) {
			return false
		}
	}
	return err == nil && !strings.Contains(query, "${")
}

// migratedBundle is a bundle that is fetched.
type migratedBundle struct {
	name  string
	lines []string
}

func (m *migration) bundleName(name string, s setting) string {
	bare := m.addBundle(name, "")
	m.bundles = m.bundles[:len(m.bundles)-1]
	m.bundleNames = append(m.bundleNames, bare)
	if bare != name {
		m.note(s, "policy", fmt.Sprintf("is called %q here", bare))
	}
	return bare
}

// bundleSettings takes over how a bundle is fetched and verified.
func (m *migration) bundleSettings(b *migratedBundle, s setting, longPoll bool) {
	add := func(format string, args ...any) { b.lines = append(b.lines, fmt.Sprintf(format, args...)) }
	long := "0s" // OPA asks for it only where it is told to
	s.each(func(c setting) {
		switch c.name() {
		case "service", "resource", "name", "prefix":
		case "persist":
			m.persist = m.persist || c.node.Value == "true"
		case "polling":
			if interval := m.polling(c); interval > 0 {
				add("interval: %ds", interval)
			}
			if seconds := scalarBelow(c.node, "long_polling_timeout_seconds"); seconds != "" {
				long = seconds + "s"
			}
		case "signing":
			add("%s", m.signing(c))
		case "size_limit_bytes":
			m.lost(c, "policy", "the size of bundles is bounded here anyway")
		case "trigger":
			if c.node.Value != "periodic" {
				m.lost(c, "policy", "bundles are asked for periodically; gatehouse bundle pull fetches one by hand")
			}
		default:
			m.lost(c, "policy", "not a setting of a bundle here")
		}
	})
	if longPoll {
		add("long_poll: %s", long)
	}
}

// polling is the middle between OPA's two delays: an interval here is a fifth more or less.
func (m *migration) polling(s setting) int64 {
	low, high := int64(60), int64(120)
	s.each(func(c setting) {
		n, err := strconv.ParseInt(c.node.Value, 10, 64)
		switch {
		case c.name() != "min_delay_seconds" && c.name() != "max_delay_seconds" && c.name() != "long_polling_timeout_seconds":
			m.lost(c, "policy", "not a setting of polling here")
		case err != nil || n < 1 || n > 1<<20:
			m.fail(c, "%q is not a number of seconds", c.node.Value)
		case c.name() == "min_delay_seconds":
			low, high = n, max(high, n)
			if _, both := s.below("max_delay_seconds"); !both {
				high = n
			}
		case c.name() == "max_delay_seconds":
			high = n
		}
	})
	return max(1, (min(low, high)+high)/2)
}
