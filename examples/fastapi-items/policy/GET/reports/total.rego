# GET /reports/total   (total)
package shop.GET.reports.total

import data.roles

default allowed := false

allowed if roles.has("admin")
