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
		"user": {"id": subject},
	}
		with ds.check as directory
}

# The directory of these tests: it says yes to this and no to everything else.
default directory(_) := false

directory(question) if {
	question.object_type == "order"
	question.subject_type == "user"
	[question.object_id, question.relation, question.subject_id] in [
		["4", "can_read", "dave"],
		["5", "can_read", "dave"],
		["5", "can_delete", "dave"],
		["6", "can_read", "carol"],
	]
}

# in_directory(roles, request): the decision about a caller whose roles are in the directory, with nothing in the token.
in_directory(roles, request) := decision if {
	decision := authz.allow with input as {
		"attributes": {"request": {"http": {"method": split(request, " ")[0]}}},
		"parsed_path": split(trim_prefix(split(request, " ")[1], "/"), "/"),
		"parsed_body": {"item": "lamp", "amount": 800},
		"identity": {"subject": "u1", "roles": [], "authenticated": true},
		"user": {"id": "u1", "roles": roles},
	}
		with ds.check as false
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

	in_directory(["viewer"], "GET /orders").allowed
	not in_directory(["viewer"], "PUT /orders/1").allowed
	in_directory(["customer"], "GET /users/u1/orders").allowed
	not in_directory(["customer"], "POST /users/u1/orders").allowed
	in_directory(["customer", "clerk"], "POST /users/u1/orders").allowed
	not in_directory([], "GET /orders").allowed
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

test_shared_orders if {
	allowed("dave", "guest", "GET /orders/4", 0)
	not allowed("dave", "guest", "GET /orders/3", 0)
	not allowed("dave", "guest", "DELETE /orders/4", 0)
	allowed("dave", "guest", "DELETE /orders/5", 0)
	not allowed("erin", "guest", "GET /orders/4", 0)
	allowed("carol", "customer", "GET /orders/6", 0)
	not allowed("carol", "customer", "DELETE /orders/6", 0)
}

test_unknown_paths_and_methods if {
	every request in ["GET /", "GET /admin", "PATCH /orders/1", "POST /orders", "GET /orders/1/x", "OPTIONS /orders"] {
		not allowed("ada", "admin", request, 1)
	}
}
