# GET /reports/by-owner/{owner}   (by_owner)
package shop.GET.reports["by-owner"].__owner

import data.roles

default allowed := false

allowed if roles.has("admin")

allowed if roles.self(input.resource.owner)
