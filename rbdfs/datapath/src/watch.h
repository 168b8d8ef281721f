/* The callback of rbd_update_watch(): it makes an eventfd readable, and needs no Python. */
#ifndef RBDFS_WATCH_H
#define RBDFS_WATCH_H

/* `arg` is the descriptor. */
void image_updated(void *arg);

#endif
