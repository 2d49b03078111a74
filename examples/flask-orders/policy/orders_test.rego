package envoy.authz_test

import data.envoy.authz

# allowed(subject, role, "GET /orders/1", amount): the decision's verdict.
allowed(subject, role, request, amount) if ask(subject, role, request, amount).allowed

ask(subject, role, request, amount) := decision if {
	decision := authz.allow with input as {
		"attributes": {"request": {"http": {"method": split(request, " ")[0]}}},
		"parsed_path": split(trim_prefix(split(request, " ")[1], "/"), "/"),
		"parsed_body": {"item": "lamp", "amount": amount},
		"identity": {"subject": subject, "roles": [role], "authenticated": true},
	}
}

anonymous(request) := decision if {
	decision := authz.allow with input as {
		"attributes": {"request": {"http": {"method": split(request, " ")[0]}}},
		"parsed_path": split(trim_prefix(split(request, " ")[1], "/"), "/"),
		"parsed_body": null,
		"identity": {"type": "IDENTITY_TYPE_NONE", "authenticated": false},
	}
}

test_anyone_sees_the_health_page if anonymous("GET /healthz").allowed

test_anonymous_gets_nothing_else if {
	every request in ["GET /orders", "GET /orders/1", "DELETE /orders/1", "GET /users/alice/orders", "GET /users//orders"] {
		not anonymous(request).allowed
	}
}

test_roles if {
	allowed("vera", "viewer", "GET /orders", 0)
	allowed("vera", "viewer", "HEAD /orders/1", 0)
	allowed("vera", "viewer", "GET /users/alice/orders", 0)
	not allowed("vera", "viewer", "DELETE /orders/1", 0)
	not allowed("vera", "viewer", "PUT /orders/1", 1)
	allowed("ada", "admin", "DELETE /orders/1", 0)
	not allowed("carl", "clerk", "DELETE /orders/1", 0)
	not allowed("mallory", "unheard-of", "GET /orders", 0)
}

test_own_orders_only if {
	allowed("alice", "customer", "GET /users/alice/orders", 0)
	not allowed("alice", "customer", "GET /users/bob/orders", 0)
	not allowed("alice", "customer", "GET /orders", 0)
	not allowed("alice", "customer", "GET /orders/1", 0)
}

test_limits if {
	allowed("carl", "clerk", "POST /users/bob/orders", 1000)
	not allowed("carl", "clerk", "POST /users/bob/orders", 1000.01)
	not allowed("carl", "clerk", "POST /users/bob/orders", "1")
	not allowed("carl", "clerk", "PUT /orders/1", null)
	allowed("alice", "customer", "POST /users/alice/orders", 500)
	not allowed("alice", "customer", "POST /users/alice/orders", 501)
	ask("carl", "clerk", "PUT /orders/1", 5000).reason == "the amount is over your limit of 1000"
}

test_access_list if {
	allowed("dave", "guest", "GET /orders/4", 0)
	not allowed("dave", "guest", "GET /orders/3", 0)
	not allowed("dave", "guest", "DELETE /orders/4", 0)
	allowed("dave", "guest", "DELETE /orders/5", 0)
	not allowed("erin", "guest", "GET /orders/4", 0)
}

test_unknown_paths_and_methods if {
	every request in ["GET /", "GET /admin", "PATCH /orders/1", "POST /orders", "GET /orders/1/x", "OPTIONS /orders"] {
		not allowed("ada", "admin", request, 1)
	}
}
