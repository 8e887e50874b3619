// Health check: makes the replica set of one at the first start, and succeeds once it has a primary.
// Transactions, change streams and majority writes need a replica set, even of one.
const fs = require("fs");

const NOT_YET_INITIALIZED = 94;
const password = fs.readFileSync("/run/secrets/mongo_root_password", "utf8").trim();
const admin = connect("mongodb://127.0.0.1:27017/admin?directConnection=true&serverSelectionTimeoutMS=3000", "root", password);

try {
  admin.adminCommand({ replSetGetStatus: 1 });
} catch (error) {
  // Anything else, such as the server that runs the first start's scripts, is not ready.
  if (error.code !== NOT_YET_INITIALIZED) throw error;
  admin.adminCommand({ replSetInitiate: { _id: "headrace", members: [{ _id: 0, host: "mongo:27017" }] } });
}
quit(admin.hello().isWritablePrimary ? 0 : 1);
