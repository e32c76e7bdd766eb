<?php
// Started as `php -S 127.0.0.1:PORT router.php`: an answer without a length, until the connection ends.
header('Content-Type: application/json');
$body = file_get_contents('php://input');
echo json_encode(['method' => $_SERVER['REQUEST_METHOD'], 'uri' => $_SERVER['REQUEST_URI'], 'bytes' => strlen($body)]), "\n";
