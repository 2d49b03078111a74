package sandbox

import (
	"fmt"
	"regexp"
	"strings"
)

// What an envoy.yaml with an ext_authz filter says of it.
var (
	filterItem = regexp.MustCompile(`(?m)^( *)- name: envoy\.filters\.http\.ext_authz\n((?: *#.*\n)*?(?:.*\n)*?)( *)- name: envoy\.filters\.http\.router`)
	flowItem   = regexp.MustCompile(`\{name: envoy\.filters\.http\.ext_authz, typed_config: \{[^{}]*grpc_service: \{envoy_grpc: \{cluster_name: gatehouse\}, timeout: [0-9.]+s\}\}\}`)
	bodyLine   = regexp.MustCompile(`(?m)^[^#\n]*(with_request_body: \{[^}]*\})`)
	timeLine   = regexp.MustCompile(`\btimeout: ([0-9.]+s)`)
	perRoute   = regexp.MustCompile(`envoy\.filters\.http\.ext_authz: *\{\s*"@type": type\.googleapis\.com/envoy\.extensions\.filters\.http\.ext_authz\.v3\.ExtAuthzPerRoute,\s*check_settings:\s*(\{(?:[^{}]|\{[^{}]*\})*\})\s*\}`)
)

const moduleFilter = `{name: gatehouse, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter,
  dynamic_module_config: {name: gatehouse, do_not_close: true}, filter_name: gatehouse,
  filter_config: {"@type": type.googleapis.com/google.protobuf.Struct, value: {config: %q, wait_for_policy: true%s}}}}`

const moduleRoute = `gatehouse: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute,
  dynamic_module_config: {name: gatehouse, do_not_close: true}, filter_name: gatehouse, filter_config: {"@type": type.googleapis.com/google.protobuf.Struct, value: %s}}`

// InModule is the text of an envoy.yaml with libgatehouse.so in the place of its ext_authz filter, for the gatehouse.yaml given.
func InModule(text, config string) (string, error) {
	found := filterItem.FindStringSubmatchIndex(text)
	if found == nil && flowItem.MatchString(text) {
		text = flowItem.ReplaceAllLiteralString(text, strings.ReplaceAll(fmt.Sprintf(moduleFilter, config, ""), "\n", "\n                    "))
		return routes(text), nil
	}
	if found == nil {
		return "", fmt.Errorf("sandbox: no ext_authz filter before the router was found in the envoy.yaml")
	}
	indent, block := text[found[2]:found[3]], text[found[4]:found[5]]
	more := ""
	if body := bodyLine.FindStringSubmatch(block); body != nil {
		more += ", " + body[1]
	}
	if limit := timeLine.FindStringSubmatch(block); limit != nil {
		more += ", timeout: " + limit[1]
	}
	filter := indent + "- " + strings.ReplaceAll(fmt.Sprintf(moduleFilter, config, more), "\n", "\n"+indent+"  ") + "\n"
	text = text[:found[0]] + filter + text[found[6]:]
	return routes(text), nil
}

// routes has the settings of routes be those of the module.
func routes(text string) string {
	return perRoute.ReplaceAllStringFunc(text, func(s string) string {
		return fmt.Sprintf(strings.ReplaceAll(moduleRoute, "\n", "\n                      "), perRoute.FindStringSubmatch(s)[1])
	})
}
