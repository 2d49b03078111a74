package shop

default allow := false

allow if {
	method == "GET"
	"viewer" in input.identity.roles
}

allow if {
	method in {"GET", "POST"}
	"clerk" in input.identity.roles
}

allow if {
	method == "DELETE"
	"admin" in input.identity.roles
	not weekend
}

weekend if time.weekday(time.now_ns()) in {"Saturday", "Sunday"}

method := input.attributes.request.http.method
