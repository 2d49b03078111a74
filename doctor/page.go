package doctor

import (
	"fmt"
	"strings"

	"gatehouse/doctor/rules"
)

const pageIntroduction = `# gatehouse doctor

<!-- Generated from the table of findings by: make docs. Edit doctor/rules and doctor/page.go instead. -->

` + "`gatehouse doctor`" + ` finds what makes a proxy in front of Gatehouse decide less than it looks: settings that let requests bypass it, that show
it another request than the application gets, or that turn its outage into yours.

    gatehouse doctor envoy.yaml --config gatehouse.yaml     # an Envoy configuration, compared with Gatehouse's own
    gatehouse doctor listeners.yaml clusters.yaml           # pieces of one
    gatehouse doctor http://127.0.0.1:9901                  # a running Envoy, by its admin port (or a saved /config_dump)
    gatehouse doctor k8s/                                   # objects of Istio, Envoy Gateway and the Gateway API
    gatehouse doctor --kubeconfig ~/.kube/config            # the same of a cluster (--context for another than the current one)
    gatehouse doctor --fix envoy.yaml > mended.yaml         # mended, with its comments
    gatehouse doctor -o sarif envoy.yaml > doctor.sarif     # for code scanning; -o json for programs

Every finding has an id, a severity and a place. **error**: requests get through undecided, or what is decided on is not what the application gets.
**warning**: an outage that waits for its day, or a second line of defence that is missing. **note**: worth knowing. The exit code is 0 where nothing or only
notes were found, 1 where something was, and 2 where the configuration could not be read or Envoy would not take it. ` + "`--severity`" + ` leaves out what is less
severe.

With ` + "`--config`" + ` Envoy is compared with the Gatehouse that it asks: names of identity headers and of headers with credentials, ` + "`policy.timeout`" + `,
` + "`limits.message`" + `, ` + "`paths`" + `, ` + "`jwt_authn_metadata`" + ` and dry run. Without it the defaults are taken.

What it does not see: configuration that Envoy fetches while it runs (ask the running Envoy instead), what scripts and modules in Envoy do, and
other ways to the application. Extensions that it does not know are left out. Of a cluster it reads the kinds that it looks at, with GET alone: no Secret, and of
ConfigMaps those of Istio's meshes. The user of the kubeconfig needs the verb ` + "`list`" + ` for them, by a token or a client certificate; what may not be listed is an error, and not left out.

Each finding about Envoy is proven by a test: the configuration runs in a real Envoy with a real Gatehouse, the request that must be denied is seen to get through
(or the outage to happen), and mended it is not. Not proven by a request is ` + "`routes-not-seen`" + `, which is about what is not there. ` + "`plain-text-across-machines`" + ` is seen on one machine: the token is read
between Envoy and Gatehouse. Those about Istio and Envoy Gateway are seen in the same way, with the configuration that Istio's control plane and Envoy Gateway's
translator make of the objects (` + "`make test-k8s`" + `), but for those that are about the node's network, the injector or certificates.
`

// Page is docs/doctor.md.
func Page() string {
	var b strings.Builder
	b.WriteString(pageIntroduction)
	for _, part := range rules.Parts() {
		fmt.Fprintf(&b, "\n## %s\n", part.Title)
		for _, r := range part.Rules {
			fmt.Fprintf(&b, "\n### %s\n\n**%s.** %s. %s\n\n%s\n", r.ID, r.Severity, r.Title, r.Risk, r.Mend)
		}
	}
	return b.String()
}
