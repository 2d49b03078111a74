package shop.GET.orders

default allowed := false

allowed if "viewer" in input.identity.roles
