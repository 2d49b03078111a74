# GET /folders/{folder_id}   (list_folder)
package drive.GET.folders.__folder_id

import data.may

default allowed := false

allowed if may.on("folder", input.resource.folder_id, "can_read")
