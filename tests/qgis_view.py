"""What QGIS makes of files that are opened in it. Run by the Python that QGIS is installed for, which has no mmrs.

Usage:
    QT_QPA_PLATFORM=offscreen /usr/bin/python3 tests/qgis_view.py [--save] PICTURES FILE...

Prints a JSON list of the layers that the files become, as opened by hand; a project becomes its layers. PICTURES is a
folder for a picture of each layer, NUMBER.png, and for the legend of all. With --save, the style of each raster is then
saved as its default, as a user does.
"""

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsLayerTree,
    QgsLayerTreeModel,
    QgsLegendRenderer,
    QgsLegendSettings,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize, Qt
from qgis.PyQt.QtGui import QColor, QImage, QPainter


def open_file(name):
    path = Path(name)
    if path.suffix in ('.qgs', '.qgz'):
        project = QgsProject.instance()
        assert project.read(name), project.error()
        return [node.layer() for node in project.layerTreeRoot().findLayers()]
    kind = QgsVectorLayer if path.suffix == '.gpkg' else QgsRasterLayer
    return [kind(name, path.stem)]


def legend(layer):
    """Labels and colours of the entries of a layer's legend; a ramp has its two ends."""
    tree = QgsLayerTree()
    model = QgsLayerTreeModel(tree)
    nodes = model.layerLegendNodes(tree.addLayer(layer))
    # The bindings of a raster's nodes do not tell the colours; the renderer, which they are made from, does.
    raster = layer.type() == layer.RasterLayer
    colours = dict(layer.renderer().legendSymbologyItems()) if raster else {}
    entries = []
    for node in nodes:
        label = node.data(Qt.DisplayRole)
        if hasattr(node, 'ramp'):
            entries.append(['ramp', *(node.ramp().color(at).name() for at in (0, 1))])
        elif raster:
            entries.append([label, colours[label].name() if label in colours else None])
        else:
            entries.append([label, node.symbol().color().name()])
    return entries


def draw(layers, extent, crs, path):
    """The picture of layers, of 200 x 160 pixels."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(crs)
    settings.setExtent(extent)
    settings.setOutputSize(QSize(200, 160))
    settings.setBackgroundColor(QColor(255, 0, 255))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    assert job.renderedImage().save(str(path))


def draw_legend(layers, path):
    tree = QgsLayerTree()
    for layer in layers:
        tree.addLayer(layer)
    model = QgsLayerTreeModel(tree)  # it has to outlive the renderer
    renderer = QgsLegendRenderer(model, QgsLegendSettings())
    millimetres = renderer.minimumSize()
    height = min(int(millimetres.height() * 4), 2000)
    image = QImage(int(millimetres.width() * 4), height, QImage.Format_RGB32)
    image.setDotsPerMeterX(4000)
    image.setDotsPerMeterY(4000)
    image.fill(QColor(255, 255, 255))
    painter = QPainter(image)
    context = QgsRenderContext.fromQPainter(painter)
    painter.scale(context.scaleFactor(), context.scaleFactor())
    renderer.drawLegend(context)
    painter.end()
    assert image.save(str(path))


def describe(layer):
    project, extent = QgsProject.instance(), layer.extent()
    node = project.layerTreeRoot().findLayer(layer.id())
    return dict(
        name=layer.name(),
        valid=layer.isValid(),
        renderer=layer.renderer().type(),
        crs=layer.crs().authid(),
        extent=[extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()],
        legend=legend(layer),
        visible=node.isVisible() if node else None,
        project_crs=project.crs().authid(),
    )


def main():
    save = '--save' in sys.argv
    pictures, *files = (argument for argument in sys.argv[1:] if argument != '--save')
    QgsApplication.setPrefixPath('/usr', True)
    application = QgsApplication([], False)
    application.initQgis()
    layers = [layer for file in files for layer in open_file(file)]
    found = [describe(layer) for layer in layers]
    for number, layer in enumerate(layers):
        draw([layer], layer.extent(), layer.crs(), Path(pictures) / f'{number}.png')
    draw_legend(layers, Path(pictures) / 'legend.png')
    if save:
        for layer in layers:
            assert layer.saveDefaultStyle()[1]
    print(json.dumps(found))
    sys.stdout.flush()
    QgsProject.instance().clear()


main()
